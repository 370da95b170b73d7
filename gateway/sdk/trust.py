"""Which certificates a gateway may show: those of the system's CAs, or of a file that is named."""

import os
import ssl

from gateway.errors import Invalid, NotTrusted, SluiceError

CA_FILE = "SLUICE_CA_FILE"
Ca = str | os.PathLike[str] | ssl.SSLContext | None
"""A file with CA certificates (PEM), in place of the system's; a context says it all; None: $SLUICE_CA_FILE, if set."""

_WHY = {
    9: "is not valid yet: is this machine's clock right?",
    10: "has expired",
    18: "was signed by itself",
    19: "was signed by nobody whom this machine trusts",
    20: "was signed by nobody whom this machine trusts",
    21: "was signed by nobody whom this machine trusts",
    62: "is another host's",
    64: "is another host's",
}
_HINTS = {
    9: "Nothing was sent.",
    10: "Nothing was sent. Whoever runs the gateway has to renew it.",
    62: "Nothing was sent. Is SLUICE_URL the name that the certificate is for?",
    64: "Nothing was sent. Is SLUICE_URL the name that the certificate is for?",
}


def verify(ca: Ca) -> ssl.SSLContext | bool:
    """What HTTP clients verify the gateway by. Invalid if the file is of no use."""
    if isinstance(ca, ssl.SSLContext):
        return ca
    file = ca or os.environ.get(CA_FILE)
    return _context(file) if file else True


def own(certificate: str | os.PathLike[str]) -> ssl.SSLContext:
    """For the machine that a gateway runs on: this certificate and no other, whatever name it is reached by there."""
    context = _context(certificate)
    context.check_hostname = False
    return context


def refused(base: str, error: BaseException) -> SluiceError | None:
    """That the certificate was not trusted, if that is why a connection failed."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = _WHY.get(cause.verify_code, f"cannot be verified: {cause.verify_message}")
        hint = _HINTS.get(
            cause.verify_code, f"Nothing was sent. If it is the right one, name its CA certificate: {CA_FILE}=FILE."
        )
        return NotTrusted(f"the certificate of the gateway at {base} {why}", hint=hint)
    return None


def _context(file: str | os.PathLike[str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=file)
    except OSError as error:  # also what is no certificate
        why = "there is no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise Invalid(f"{os.fspath(file)}: {why}", hint=f"{CA_FILE} names CA certificates in PEM.") from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a certificate that is named is enough by itself
    return context
