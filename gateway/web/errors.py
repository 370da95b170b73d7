"""Errors as HTTP: the one place where an error becomes a status, and problem details (RFC 9457) for all of them."""

import http
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gateway import errors
from gateway.errors import SluiceError

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER = "2"

#: By class; a class that is not named here has the status of its parent.
STATUS: Mapping[type[SluiceError], int] = {
    SluiceError: 500,
    errors.Invalid: 422,
    errors.TooLarge: 413,
    errors.HeadTooLarge: 431,
    errors.TooMany: 429,
    errors.SettingsInvalid: 500,
    errors.NotFound: 404,
    errors.ImageMissing: 409,
    errors.Conflict: 409,
    errors.NotReady: 503,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.Unavailable: 503,
    errors.StorageFull: 507,
    errors.EndpointUnavailable: 502,
    errors.TimedOut: 504,
    errors.TooSlow: 408,
}


def status_of(kind: type[SluiceError]) -> int:
    """The HTTP status of a class of errors."""
    return next(STATUS[parent] for parent in kind.__mro__ if parent in STATUS)


def problem_of(error: SluiceError, *, instance: str = "", request_id: str = "") -> dict[str, Any]:
    """An error of ours as problem details."""
    found = problem(status_of(type(error)), error.code, error.message, instance=instance, request_id=request_id)
    found |= {"hint": error.hint, "retryable": error.retryable}
    return {**error.details, **found}


def problem(status: int, code: str, detail: str, *, instance: str = "", request_id: str = "") -> dict[str, Any]:
    """Problem details; `code` is stable, `detail` speaks to people."""
    return {
        "type": f"urn:sluice:problem:{code}",
        "title": _title(status),
        "status": status,
        "detail": detail,
        "code": code,
        "hint": "",
        "retryable": False,
        "instance": instance,
        "request_id": request_id,
    }


def respond(found: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Problem details as a response; what may be retried says when."""
    extra = dict(headers or {})
    if found.get("retryable"):
        extra.setdefault("Retry-After", str(found.get("retry_after", RETRY_AFTER)))
    body = json.dumps(found, default=str).encode()
    return Response(body, int(found["status"]), headers=extra, media_type=PROBLEM_TYPE)


def install(app: FastAPI) -> None:
    """Let every error of an app come out as problem details."""

    @app.exception_handler(SluiceError)
    async def ours(request: Request, error: SluiceError) -> Response:
        request.state.refused = error
        return respond(problem_of(error, **_where(request)))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        faults = error.errors()
        request.state.refused = errors.Invalid("the request is not as it must be")
        found = problem(422, errors.Invalid.code, "; ".join(map(_sentence, faults)) or "invalid", **_where(request))
        found["errors"] = [{"field": _field(fault["loc"]), "message": fault["msg"]} for fault in faults]
        return respond(found)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        code = _CODES.get(error.status_code, "invalid" if error.status_code < http.HTTPStatus(500) else "error")
        detail = error.detail if error.detail != _title(error.status_code) else _said(request, error.status_code)
        return respond(problem(error.status_code, code, detail, **_where(request)), error.headers)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        del error  # it is raised on, and logged with its traceback by the frame
        return respond(problem(500, SluiceError.code, FAULT, **_where(request)))


FAULT = "something went wrong here; the log has it under this request id"
_CODES = {
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    413: "too_large",
    503: "unavailable",
}


def _said(request: Request, status: int) -> str:
    match status:
        case http.HTTPStatus.NOT_FOUND:
            return f"there is nothing at {request.url.path}"
        case http.HTTPStatus.METHOD_NOT_ALLOWED:
            return f"{request.url.path} does not take {request.method}"
        case _:
            return _title(status)


def _title(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _where(request: Request) -> dict[str, str]:
    return {"instance": request.url.path, "request_id": getattr(request.state, "request_id", "")}


def _field(place: Sequence[Any]) -> str:
    """`("body", "resources", "gpus")` is `resources.gpus`; a parameter of the query or the path is its name."""
    return ".".join(str(part) for part in place[1:]) or str(place[0])


def _sentence(fault: Any) -> str:
    return f"{_field(fault['loc'])}: {fault['msg']}"
