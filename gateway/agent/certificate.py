"""The job's own key pair and certificate, made on the node, and the TLS settings of the relay."""

from __future__ import annotations

import hashlib
import os
import ssl
from typing import Awaitable, Callable, Sequence, Tuple

from . import errors

#: What a connection is for, by its ALPN name; without one it is for the service. MUX: many streams for the service.
CONTROL, TERMINAL, FORWARD, MUX = "sluice-control", "sluice-terminal", "sluice-forward", "sluice-mux"

Tool = Callable[[Sequence[str], float], Awaitable[Tuple[int, str]]]

#: A whole configuration, so that the node's own openssl.cnf plays no part.
_CONFIG = "[req]\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n[ext]\nbasicConstraints=critical,CA:FALSE\n"


async def make(tool: Tool, directory: str, name: str) -> Tuple[str, str]:
    """Make cert.pem and key.pem (0600, by the umask) in `directory`; their paths. JobEnds if openssl fails."""
    certificate, key, config = (os.path.join(directory, file) for file in ("cert.pem", "key.pem", "openssl.cnf"))
    _write_config(config)
    # P-256: every TLS 1.3 library has it, and machines in FIPS mode allow it.
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-sha256", "-days", "3650", "-subj", f"/CN={name}", "-config", config]
    argv += ["-keyout", key, "-out", certificate]
    code, output = await tool(argv, 60)
    if code:
        raise errors.JobEnds(
            "start_failed", errors.START_FAILED, f"openssl cannot make a certificate (exit {code}): {output[-500:]}"
        )
    os.chmod(key, 0o600)
    return certificate, key


def _write_config(path: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(_CONFIG)


def fingerprint(certificate: str) -> str:
    """SHA-256 of the certificate's DER form, hex."""
    with open(certificate, encoding="ascii") as file:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(file.read())).hexdigest()


def server_context(certificate: str, key: str, client_ca: str) -> ssl.SSLContext:
    """TLS 1.3 only; the client must show a certificate signed by `client_ca` (PEM)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(cadata=client_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols([CONTROL, TERMINAL, FORWARD, MUX])
    context.num_tickets = 0  # no resumption: every connection shows its certificate
    return context
