"""What the shell offers when Tab is pressed: asked of the gateway, quickly, and silent when that fails."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

TIMEOUT = 1.5

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def sessions(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of live sessions."""
    del ctx, param
    return _offer("/sessions?ended=false&limit=200", incomplete, lambda item: f"{item['recipe']}, {item['phase']}")


def ended_sessions(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of sessions that have ended."""
    del ctx, param
    return _offer("/sessions?ended=true&limit=200", incomplete, lambda item: f"{item['recipe']}, {item['phase']}")


def any_sessions(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of all sessions."""
    del ctx, param
    return _offer("/sessions?limit=200", incomplete, lambda item: f"{item['recipe']}, {item['phase']}")


def tasks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of tasks."""
    del ctx, param
    found = {str(item["id"]): f"{item['phase']}, {item['completed']} lines" for item in _items("/tasks?limit=100")}
    return [CompletionItem(name, help=text) for name, text in found.items() if name.startswith(incomplete)]


def recipes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of recipes."""
    del ctx, param
    return _offer("/recipes", incomplete, lambda item: str(item["title"]))


def clusters(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the gateway's clusters."""
    del ctx, param
    return _offer("/clusters", incomplete, lambda item: str(item["backend"]))


def secrets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of secrets: of the project that is named, else of all that may be used."""
    del param
    return _kept("/secrets", ctx, incomplete, "secret")


def volumes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of volumes, in the same way."""
    del param
    return _kept("/volumes", ctx, incomplete, "volume")


def people(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of users that one may know of."""
    del ctx, param
    return _offer("/users", incomplete, lambda item: str(item["kind"]))


def projects(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of projects that one may know of."""
    del ctx, param
    return _offer("/projects", incomplete, lambda item: str(item["title"]))


def ruled(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What an action of policies is done with: projects, tokens, else users."""
    action = str(ctx.params.get("action") or "")
    if action.startswith(("project.", "member.")):
        return projects(ctx, param, incomplete)
    if action == "token.revoke":
        return _offer("/tokens", incomplete, lambda item: f"of {item['user']}")
    return people(ctx, param, incomplete)


def _kept(path: str, ctx: click.Context, incomplete: str, what: str) -> list[CompletionItem]:
    project = ctx.params.get("project")
    items = [item for item in _items(path) if project is None or item["project"] == project]
    found = {str(item["name"]): f"{what} of {item['project'] or 'your own'}" for item in items}
    return [CompletionItem(name, help=text) for name, text in found.items() if name.startswith(incomplete)]


def _offer(path: str, incomplete: str, describe: Callable[[Any], str]) -> list[CompletionItem]:
    found = {str(item["name"]): describe(item) for item in _items(path)}
    return [CompletionItem(name, help=text) for name, text in found.items() if name.startswith(incomplete)]


def _items(path: str) -> list[Any]:
    """The items of a list of the API; none if anything at all goes wrong. Plain urllib: it is there at once."""
    from gateway.cli.client import where
    from gateway.errors import SluiceError

    try:
        url, token = where()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"{url}/api/v1{path}", headers=headers)  # noqa: S310 -- the gateway's address
        with _opener(url).open(request, timeout=TIMEOUT) as answer:
            return list(json.load(answer)["items"])
    except (OSError, ValueError, KeyError, TypeError, SluiceError, urllib.error.URLError):
        return []


def _opener(url: str) -> urllib.request.OpenerDirector:
    if not url.startswith("https:"):
        return urllib.request.build_opener()
    from gateway.cli.client import trusted
    from gateway.sdk.trust import verify

    found = verify(trusted())
    context = found if isinstance(found, ssl.SSLContext) else None
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
