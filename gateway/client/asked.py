"""What the gateway must know of an inference request: read in one pass over the body, the rest is left as it is."""

import msgspec

from gateway.errors import Invalid


class Asked(msgspec.Struct):
    """The fields that decide where a request goes, whether it may be sent twice, and how it is answered."""

    model: str = ""
    store: bool | None = None
    background: bool | None = None
    stream: object = None

    @classmethod
    def read(cls, body: bytes) -> "Asked":
        """Invalid, as OpenAI's clients expect it, if the body is no JSON object or these fields are of another type."""
        try:
            return _DECODER.decode(body)
        except msgspec.ValidationError as error:
            field = str(error).rpartition("$.")[2].rstrip("`") if "$." in str(error) else None
            raise Invalid(f"the body must be a JSON object: {error}", code="invalid_request", param=field) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Invalid(f"the body is not JSON: {error}", code="invalid_request") from error

    @property
    def repeatable(self) -> bool:
        """Whether it does no harm if a server gets it twice: what is to be kept there, or goes on there, must not."""
        return not (self.store or self.background)


_DECODER = msgspec.json.Decoder(Asked)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def as_model(body: bytes, model: str) -> bytes:
    """The same request for what its server calls the model; every other field byte for byte."""
    fields = _FIELDS.decode(body)
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)
