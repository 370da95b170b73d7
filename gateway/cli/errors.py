"""How an error ends a command: the exit codes, all of them here, and what is said on stderr.

0    done
1    failed: the session failed, a build failed, `doctor` found a problem, or something unforeseen
2    what was asked cannot be: wrong usage, an unknown parameter, broken settings
3    there is no such session, recipe, image or cluster
4    not allowed, or the token is not accepted, or the gateway's certificate is not trusted
5    the gateway, Slurm or a node does not answer: try again
6    it did not happen in the time given
7    it is not in a state for that (still running, not ready, name taken)
130  interrupted with Ctrl-C
"""

import json
import os
import sys
import traceback

import click

from gateway import errors
from gateway.errors import SluiceError

OK = 0
FAILED = 1
INVALID = 2
NOT_FOUND = 3
DENIED = 4
UNAVAILABLE = 5
TIMED_OUT = 6
CONFLICT = 7
INTERRUPTED = 130

EXIT_CODES: dict[type[SluiceError], int] = {
    SluiceError: FAILED,
    errors.Invalid: INVALID,
    errors.NotFound: NOT_FOUND,
    errors.Unauthenticated: DENIED,
    errors.Forbidden: DENIED,
    errors.NotTrusted: DENIED,
    errors.Unavailable: UNAVAILABLE,
    errors.TimedOut: TIMED_OUT,
    errors.Conflict: CONFLICT,
}
"""By the nearest class in the tree."""

MEANINGS: dict[int, str] = {
    OK: "Done.",
    FAILED: "Failed: the session failed, a build failed, `doctor` found a problem, or something unforeseen.",
    INVALID: "What was asked cannot be: wrong usage, an unknown parameter, broken settings.",
    NOT_FOUND: "There is no such session, recipe, image or cluster.",
    DENIED: "Not allowed, or the token is not accepted, or the gateway's certificate is not trusted.",
    UNAVAILABLE: "The gateway, Slurm or a node does not answer: try again.",
    TIMED_OUT: "It did not happen in the time given.",
    CONFLICT: "It is not in a state for that (still running, not ready, name taken).",
    INTERRUPTED: "Interrupted with Ctrl-C.",
}

_EXTRAS = {
    **dict.fromkeys(("alembic", "aiohttp", "cedarpy", "cryptography", "fastapi", "jinja2", "jwt", "ruamel"), "server"),
    **dict.fromkeys(("jsonschema", "spython", "sqlalchemy", "structlog", "sse_starlette", "uvicorn"), "server"),
    "asyncssh": "ssh",
    "openai": "openai",
    "kopf": "bridge",
    "pyslurm": "pyslurm",
    "pynvml": "monitoring",
}


def exit_code(error: type[SluiceError]) -> int:
    """The exit code of an error class."""
    return next(EXIT_CODES[cls] for cls in error.__mro__ if cls in EXIT_CODES)


def report(error: BaseException, *, as_json: bool) -> int:
    """Say on stderr what went wrong; the exit code. With SLUICE_DEBUG set, a traceback first."""
    if os.environ.get("SLUICE_DEBUG"):
        traceback.print_exception(error)
    match error:
        case SluiceError():
            code, details = exit_code(type(error)), error.details
            _say(error.code, error.message, error.hint, code, as_json=as_json, retryable=error.retryable, **details)
            return code
        case click.ClickException():
            _say("usage", error.format_message(), _usage_hint(error), error.exit_code, as_json=as_json)
            return error.exit_code
        case KeyboardInterrupt() | click.Abort():
            _say("interrupted", "interrupted", "", INTERRUPTED, as_json=as_json)
            return INTERRUPTED
        case ModuleNotFoundError(name=str(name)) if name.partition(".")[0] in _EXTRAS:
            extra = _EXTRAS[name.partition(".")[0]]
            hint = f"Install it: pip install 'sluice[{extra}]'"
            _say("extra_missing", f"this needs the extra {extra!r} ({name})", hint, INVALID, as_json=as_json)
            return INVALID
        case _:
            text = f"{type(error).__name__}: {error}"
            hint = "This should not happen. SLUICE_DEBUG=1 shows where it comes from."
            _say("internal", text, hint, FAILED, as_json=as_json)
            return FAILED


def _say(code: str, message: str, hint: str, exit_status: int, *, as_json: bool, **more: object) -> None:
    if as_json:
        told = {"code": code, "message": message, "hint": hint, "exit": exit_status, **more}
        click.echo(json.dumps({"error": told}, ensure_ascii=False, default=str), err=True)
        return
    colour = None if not os.environ.get("NO_COLOR") and sys.stderr.isatty() else False
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {message}", err=True, color=colour)
    if hint:
        click.echo(f"{click.style('Hint:', bold=True)}  {hint}", err=True, color=colour)


def _usage_hint(error: click.ClickException) -> str:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{error.ctx.command_path} --help"
    return ""
