"""What OpenAPI says beyond the routes: problem details as answers, the token, and examples."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.model.api import Problem
from gateway.web.errors import PROBLEM_TYPE, problem

_DEFAULT = {"HTTPValidationError", "ValidationError"}
_FIRST_ERROR = 400
Responses = dict[int | str, dict[str, Any]]

_WORDS: Mapping[int, tuple[str, str, str]] = {
    401: ("No token, or one that is not valid here.", "unauthenticated", "no token was given"),
    403: ("You may not do this.", "forbidden", "the pages of session demo are its owner's alone"),
    404: ("There is no such thing, or you may not know of it.", "session_not_found", "there is no session 'demo'"),
    409: ("It is not in a state for that.", "conflict", "session demo has not ended"),
    413: ("The request is too long.", "too_large", "the request is longer than 1024 KiB"),
    422: (
        "What was asked cannot be; `errors` names the fields.",
        "invalid",
        "limit: Input should be less than or equal to 500",
    ),
    503: (
        "Something that the gateway depends on does not answer; try again later.",
        "files_unavailable",
        "the login node does not answer",
    ),
}


def problems(*statuses: int) -> Responses:
    """The errors that a route may answer with, besides those that every route has."""
    return {status: {"description": _WORDS[status][0]} for status in statuses}


def example(value: Any, description: str = "") -> dict[str, Any]:
    """A successful answer with an example."""
    return {"description": description or "Done.", "content": {"application/json": {"example": value}}}


class Api(FastAPI):
    """An app whose OpenAPI is whole: every error is problem details, every path but the open ones needs the token."""

    def __init__(self, *, open_paths: frozenset[str] = frozenset(), **options: Any) -> None:
        super().__init__(**options)
        self.open_paths = open_paths

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = _schema(self, self.open_paths)
        return self.openapi_schema


def _schema(app: FastAPI, open_paths: frozenset[str]) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
        openapi_version="3.1.0",
    )
    parts = schema.setdefault("components", {})
    models = parts.setdefault("schemas", {})
    for name in _DEFAULT:
        models.pop(name, None)
    models["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    parts["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "`sluice env` prints the token."}
    }
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if path not in open_paths:
                operation["security"] = [{"token": []}]
                operation["responses"].setdefault("401", {"description": _WORDS[401][0]})
            for status, answer in operation["responses"].items():
                if status.isdigit() and int(status) >= _FIRST_ERROR:
                    operation["responses"][status] = _problem_answer(int(status), answer)
    return schema


def _problem_answer(status: int, answer: dict[str, Any]) -> dict[str, Any]:
    words, code, detail = _WORDS.get(status, (answer.get("description", ""), "error", "an error"))
    shown = problem(status, code, detail, instance="/api/v1/sessions/demo", request_id="01J0000000000000000000000A")
    return {
        "description": words,
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": shown}},
    }
