"""Structured logs: one line an event, JSON for machines or text for people, also what libraries log."""

import logging
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import structlog

#: An answer that is cut off on purpose, or a WebSocket that is refused: the frame's own lines say why.
_TOLD_BY_US = ("ASGI callable returned without completing",)
_QUIET = ("asyncssh", "httpx", "httpcore", "uvicorn.access", "uvicorn.error", "websockets", "alembic")


def configure(form: str = "json", level: str = "info") -> None:
    """Send every log of this process to standard error in one form. Request and session ids come from the context."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        hide_secrets,
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if form == "json"
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    # Our own lines go out at once; what libraries log passes through the standard library and looks the same.
    structlog.configure(
        processors=[*shared, *last],
        logger_factory=_Lines,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_drop_colours, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(lambda record: not record.getMessage().startswith(_TOLD_BY_US))


class _Lines(structlog.WriteLogger):
    """Writes lines to standard error; it knows its name, as the standard library's loggers do."""

    def __init__(self, name: str = "", *_: Any) -> None:
        super().__init__(sys.stderr)
        self.name = name


_TELLING = re.compile(r"(^|_)(secrets?|tokens?|passwords?|authorization|cookies?|bearer|credentials?|values)($|_)")


def hide_secrets(logger: Any, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Whatever a line calls by a telling name is not said, at any depth; numbers and yes or no are."""
    del logger, name
    return {key: _hidden(key, value) for key, value in event.items()}


@lru_cache(1000)
def _telling(key: str) -> bool:
    return _TELLING.search(key.lower()) is not None


def _hidden(key: str, value: Any) -> Any:
    if _telling(key) and not isinstance(value, bool | int | float | None):
        return "***"
    if isinstance(value, Mapping):
        return {inner: _hidden(str(inner), part) for inner, part in value.items()}
    return value


def _drop_colours(logger: Any, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The web server's own lines carry a coloured copy of themselves."""
    del logger, name
    event.pop("color_message", None)
    return event
