"""What HTTP callers were refused, told to the audit log: who, what they wanted, and why not.

A denial is told whatever was asked; that something could not be done is told where something would have changed. What
a reader may not know of looks like nothing at all, to the log too: reading leaves a row only where it was denied.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from starlette.types import Scope

from gateway.core import audit
from gateway.core.context import Gateway
from gateway.errors import Forbidden, SluiceError, Unauthenticated
from gateway.model.principal import Principal
from gateway.web.caller import SAFE


class Wanted(NamedTuple):
    """What a request asks for: the action as the audit log calls it, and the object."""

    action: str
    kind: str = ""
    object: str = ""
    project: str | None = None
    details: Mapping[str, str] = {}


Naming = Callable[[Scope], Wanted | None]
Told = Callable[[Scope, SluiceError], None]


def teller(gateway: Gateway, naming: Naming | None = None) -> Told:
    """What a part of the frame tells of requests that it refused. `naming` knows the actions of its routes."""

    def refused(scope: Scope, error: SluiceError) -> None:
        method = scope.get("method", "GET")
        if method in SAFE and not isinstance(error, Forbidden | Unauthenticated):
            return
        wanted = (naming(scope) if naming is not None else None) or Wanted(f"{method} {scope['path']}")
        client = scope.get("client")
        tell(gateway, scope["state"].get("caller"), wanted, error, str(client[0]) if client else "socket")

    return refused


def tell(
    gateway: Gateway,
    caller: Principal | None,
    wanted: Wanted,
    error: SluiceError,
    peer: str,
    request_id: str | None = None,
) -> None:
    """A request of a caller, of nobody if none was told, was refused."""
    details = {**wanted.details, "from": peer}
    if caller is None:
        action = "authenticate" if isinstance(error, Unauthenticated) else wanted.action
        details["wanted"] = wanted.action
        told = audit.by_nobody(gateway)
        told = told.model_copy(update={"request_id": request_id or told.request_id})
        audit.refused(gateway, told, error, action, place=f"{peer} {error.message}", details=details)
        return
    told = audit.by(gateway, caller)
    told = told.model_copy(update={"request_id": request_id or told.request_id})
    audit.refused(
        gateway, told, error, wanted.action, wanted.kind, wanted.object, project=wanted.project, details=details
    )
