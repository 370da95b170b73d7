"""What both clients share and what does no I/O: which call to make, what an answer means, when to try again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError
from tenacity import RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_base, wait_exponential, wait_random

from gateway import errors
from gateway.errors import SluiceError
from gateway.model.api import SessionRequest
from gateway.sdk import trust

M = TypeVar("M", bound=BaseModel)
Origin = Literal["cli", "kubernetes"]
"""Through which program somebody asks, other than a client of the API."""

API = "/api/v1"
ATTEMPTS = 5
LONGEST_RETRY_AFTER = 60.0
ERROR_EVENT = "error"
"""Type of the event that ends a stream: its data are problem details."""

_AGAIN_STATUS = {429, 502, 503, 504, 507}
_BY_CODE = {cls.code: cls for cls in errors.tree()}
_BY_STATUS: dict[int, type[SluiceError]] = {
    400: errors.Invalid,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    422: errors.Invalid,
    **dict.fromkeys(_AGAIN_STATUS, errors.Unavailable),
}
"""For answers that are not ours: a proxy in between, say. Ours carry a code."""


class Content(Protocol):
    """A body that is sent as it is, and may be sent again."""

    def pieces(self) -> Iterator[bytes]:
        """From its beginning."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request. `content`: its body, if that is no JSON.

    `repeatable`: sending it twice is as good as once, so it may be tried again.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content: "Content | None" = None
    repeatable: bool = False
    good: frozenset[int] = frozenset()
    """Statuses above 399 that answer the call all the same."""


HEALTH = Call(method="GET", path="/health/ready", good=frozenset({503}), repeatable=True)


class SessionOptions(TypedDict, total=False):
    """What may be said about a new session beside its recipe; None counts as unsaid."""

    parameters: Mapping[str, Any] | None
    resources: Mapping[str, Any] | None
    name: str | None
    version: str | None
    project: str | None
    cluster: str | None
    labels: Mapping[str, str] | None
    volumes: Sequence[Mapping[str, Any]] | None
    replicas: Mapping[str, int | None] | None
    renew: bool | None


def quoted(ref: str) -> str:
    """A name as one segment of a path."""
    return quote(ref, safe="")


class Transient(Exception):
    """An answer that may be better next time; callers get the `error` in it. `after`: Retry-After, in seconds."""

    def __init__(self, error: SluiceError, after: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


class WaitAsTold(wait_base):
    """Exponential back-off with jitter, but never less than the server's Retry-After."""

    _backoff = wait_exponential(multiplier=0.2, max=5.0) + wait_random(0.0, 0.2)

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        told = error.after if isinstance(error, Transient) else 0.0
        return max(told, self._backoff(retry_state))


def policy(attempts: int) -> dict[str, Any]:
    """Arguments for tenacity's Retrying and AsyncRetrying."""
    return {
        "stop": stop_after_attempt(max(1, attempts)),
        "wait": WaitAsTold(),
        "retry": retry_if_exception_type(Transient),
        "reraise": True,
    }


def get(path: str, **params: Any) -> Call:
    """Read something; parameters that are None are left out."""
    return Call(method="GET", path=path, params=_given(params), repeatable=True)


def create(request: SessionRequest, key: str | None) -> Call:
    """Start a session. It always carries a key, so that a lost answer never starts it twice."""
    headers = {"Idempotency-Key": key or uuid4().hex}
    return Call(method="POST", path="/sessions", body=_dump(request), headers=headers, repeatable=True)


def dry_run(request: SessionRequest) -> Call:
    return Call(method="POST", path="/sessions", params={"dry_run": "true"}, body=_dump(request), repeatable=True)


def link(ref: str) -> Call:
    """A link that nobody uses does no harm, so it is repeatable."""
    return Call(method="POST", path=f"/sessions/{quoted(ref)}/open", repeatable=True)


def stop(ref: str) -> Call:
    """Stopping twice is stopping once, so it is repeatable."""
    return Call(method="POST", path=f"/sessions/{quoted(ref)}/stop", repeatable=True)


def wish(ref: str, what: str, body: BaseModel | None = None) -> Call:
    """What is wanted of a session; to scale or extend it twice is to do it once."""
    sent = body.model_dump(mode="json", exclude_unset=True) if body is not None else None
    twice = what in {"scale", "extend"}
    return Call(method="POST", path=f"/sessions/{quoted(ref)}/{what}", body=sent, repeatable=twice)


def delete(ref: str, *, files: bool) -> Call:
    return Call(method="DELETE", path=f"/sessions/{quoted(ref)}", params=_given({"files": files or None}))


def write(method: str, path: str, body: BaseModel | None = None) -> Call:
    """Change something where saying it twice is saying it once, unless it is a POST."""
    return Call(
        method=method,
        path=path,
        body=body.model_dump(mode="json", exclude_unset=True) if body is not None else None,
        repeatable=method != "POST",
    )


def secret(method: str, path: str, project: str | None, value: str | None = None) -> Call:
    """Set or remove a secret: saying it twice is saying it once."""
    body = {"value": value} if value is not None else None
    return Call(method=method, path=path, params=_given({"project": project}), body=body, repeatable=True)


def kept(method: str, path: str, project: str | None, body: BaseModel | None = None) -> Call:
    """Set or remove what has a name: saying it twice is saying it once."""
    said = body.model_dump(mode="json", exclude_unset=True) if body is not None else None
    return Call(method=method, path=path, params=_given({"project": project}), body=said, repeatable=True)


def ask(path: str, body: BaseModel) -> Call:
    """A question that is too long for an address: nothing is changed, so it may be asked again."""
    return Call(method="POST", path=path, body=body.model_dump(mode="json", exclude_unset=True), repeatable=True)


def session_request(recipe: str, options: SessionOptions) -> SessionRequest:
    """A checked request; Invalid says which field is wrong."""
    try:
        return SessionRequest.model_validate({"recipe": recipe, **_given(options)})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        hint = f"Got {first['input']!r}." if first["loc"][:1] != ("parameters",) else ""  # secrets may be among them
        raise errors.Invalid(f"{where}: {first['msg']}", hint=hint) from None


def read(model: type[M], response: httpx.Response) -> M:
    """The answer as a model. Unavailable if something else than a Sluice gateway answered."""
    return parse(model, response.content, str(response.request.url))


def parse(model: type[M], content: bytes | str, source: str) -> M:
    """The same for a piece of an answer."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise not_ours(source, f"it does not fit {model.__name__}") from error


def not_ours(source: str, why: str) -> SluiceError:
    return errors.Unavailable(
        f"{source} answered, but not like a Sluice gateway: {why}",
        hint="Does SLUICE_URL point to the gateway, and is it of the same version?",
    )


def unreachable(base: str, error: httpx.TransportError) -> SluiceError:
    """The connection failed before there was an answer."""
    if (distrust := trust.refused(base, error)) is not None:
        return distrust
    why = str(error) or type(error).__name__
    return errors.Unavailable(
        f"the gateway at {base} does not answer: {why}",
        hint="Is it running, and is SLUICE_URL right? `sluice up` starts one on this machine.",
    )


def never_sent(error: httpx.TransportError) -> bool:
    """No connection, so nothing was sent: any call may be tried again."""
    return isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))


def problem(response: httpx.Response) -> SluiceError:
    """The error that an answer (its body has been read) stands for: the class by `code`, the server's own words."""
    try:
        told = json.loads(response.content)
    except ValueError:
        told = None
    if isinstance(told, dict) and isinstance(told.get("error"), dict):  # as OpenAI says it, under /v1
        told = {"code": told["error"].get("code"), "detail": told["error"].get("message")}
    if isinstance(told, dict) and isinstance(told.get("code"), str):
        return told_error(told, status=response.status_code)
    cls = _BY_STATUS.get(response.status_code, SluiceError)
    text = response.text.strip()[:200] or response.reason_phrase
    return cls(f"{response.request.url} answered {response.status_code}: {text}", status=response.status_code)


def told_error(told: Mapping[str, Any], *, status: int) -> SluiceError:
    """Problem details as the error they were made from."""
    cls = _BY_CODE.get(str(told.get("code"))) or _BY_STATUS.get(status, SluiceError)
    details = dict(told["details"]) if isinstance(told.get("details"), dict) else {}
    details |= {key: told[key] for key in ("request_id", "errors") if told.get(key)}
    message = str(told.get("detail") or told.get("title") or f"status {status}")
    reserved = {"message", "hint", "self"}
    kept = {key: value for key, value in details.items() if key not in reserved}
    return cls(message, hint=str(told.get("hint") or ""), **{**kept, "status": status})


def event_error(event: "ServerEvent", source: str) -> SluiceError:
    """The error that ended a stream."""
    try:
        told = json.loads(event.data)
    except ValueError:
        return not_ours(source, "an event `error` without problem details")
    return told_error(told, status=int(told.get("status", 500)))


def failed(response: httpx.Response, *, repeatable: bool) -> Exception:
    """What to raise for an error answer: Transient if the same call may be sent again, else the error."""
    error, after = problem(response), retry_after(response.headers)
    again = repeatable and response.status_code in _AGAIN_STATUS and error.retryable
    return Transient(error, after) if again and after <= LONGEST_RETRY_AFTER else error


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds; the form with a date is not worth a clock here and counts as none."""
    try:
        return max(0.0, float(headers.get("retry-after", "0")))
    except ValueError:
        return 0.0


def chat(messages: str | Sequence[Mapping[str, Any]], model: str, options: Mapping[str, Any]) -> Call:
    """A question to a model, answered as a stream."""
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    body = {"model": model, "messages": said, "stream": True, **_given(options)}
    return Call(method="POST", path="/v1/chat/completions", body=body)


def chat_text(event: "ServerEvent", source: str) -> str:
    """The piece of the answer in one event of the stream. An error of the model server is Unavailable."""
    if event.data.strip() == "[DONE]":
        return ""
    try:
        told = json.loads(event.data)
        if "error" in told:
            said = told["error"]
            raise errors.Unavailable(str(said.get("message", said) if isinstance(said, dict) else said))
        return "".join(str(choice.get("delta", {}).get("content") or "") for choice in told.get("choices", ()))
    except (ValueError, AttributeError, TypeError) as error:
        raise not_ours(source, "a chat that is not as OpenAI's") from error


@dataclass(frozen=True)
class ServerEvent:
    """One server-sent event."""

    id: str
    type: str
    data: str


class EventLines:
    """Turns the lines of a text/event-stream into events."""

    def __init__(self) -> None:
        self._id = ""
        self._type = ""
        self._data: list[str] = []

    def feed(self, line: str) -> Iterator[ServerEvent | None]:
        """An event when the line completes one; None for a comment, the server's sign of life."""
        line = line.rstrip("\r\n")
        if line.startswith(":"):
            yield None
            return
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match name:
                case "id":
                    self._id = value
                case "event":
                    self._type = value
                case "data":
                    self._data.append(value)
            return
        if self._data:
            yield ServerEvent(self._id, self._type or "message", "\n".join(self._data))
        self._type, self._data = "", []


def render(name: str, body: Mapping[str, Any], version: str | None) -> Call:
    """Starts nothing, so it may be repeated."""
    params = _given({"version": version})
    return Call(
        method="POST", path=f"/recipes/{quoted(name)}/render", params=params, body=_given(body), repeatable=True
    )


def _dump(request: SessionRequest) -> Any:
    return request.model_dump(mode="json", exclude_unset=True)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
