"""Who may do what with a session, as a table: its answers are asked of a real cluster by test_access.py.

`python -m tests.cluster.access` writes docs/reference/access.md from it.
"""

from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs/reference/access.md"

#: People who are known, and what they are to the session of which is spoken.
KNOWN = {
    "own": "its owner, a member of its project",
    "member": "another member of its project",
    "viewer": "a viewer of its project",
    "manager": "a manager of its project",
    "other": "a manager of another project",
    "operator": "an operator, in no project",
}
#: What is shown by those who are nobody. All of it is made from something of the owner's that was good.
NOBODY = {
    "anonymous": "nothing",
    "expired": "a token of the provider's that has expired",
    "revoked": "a token of Sluice's that was revoked",
    "audience": "a token of the provider's for another audience",
    "unsigned": "a token with `alg: none`",
    "old-key": "a token signed by a key that the provider does not publish any more",
    "forged": "forged cookies, of a sign-in and of an opened session",
}
CALLERS = (*KNOWN, *NOBODY)


class Operation(NamedTuple):
    """What is asked, and how it is answered to each who is known: an HTTP status; with `-`, without what is asked for.

    `cli` are the words of the command, where there is one; `{session}` is the session's id.
    """

    what: str
    method: str
    path: str
    answers: str
    cli: tuple[str, ...] = ()
    body: str = ""


#: own, member, viewer, manager, other, operator
OPERATIONS = {
    "list": Operation(
        "list sessions", "GET", "/api/v1/sessions?limit=500", "200 200 200 200 200- 200", ("list", "--all", "--json")
    ),
    "get": Operation(
        "get", "GET", "/api/v1/sessions/{session}", "200 200 200 200 404 200", ("show", "{session}", "--json")
    ),
    "logs": Operation(
        "logs", "GET", "/api/v1/sessions/{session}/logs", "200 200 200 200 404 200", ("logs", "{session}", "--json")
    ),
    "script": Operation(
        "script", "GET", "/api/v1/sessions/{session}/script", "200 200 200 200 404 200",
        ("show", "{session}", "--script"),
    ),
    "stop": Operation(
        "stop", "POST", "/api/v1/sessions/{stopped}/stop", "202 403 403 202 404 202", ("stop", "{stopped}")
    ),
    "call": Operation(
        "call `/v1`", "POST", "/v1/chat/completions", "200 200 404 200 404 404", ("chat", "{session}", "hello"),
        '{"model": "{session}", "messages": [{"role": "user", "content": "hello"}]}',
    ),
    "open": Operation("open `/s`", "GET", "/s/{session}/", "200 403 403 403 404 403", ("open", "{session}", "--print")),
    "own-volume": Operation(
        "use a volume of its owner's", "POST", "/api/v1/sessions?dry_run=true", "200 404 403 404 404 403",
        ("launch", "shell-command", "-p", "command=true", "--volume", "notes", "--dry-run"),
        '{"recipe": "shell-command", "parameters": {"command": "true"}, "volumes": [{"name": "notes"}]}',
    ),
    "project-volume": Operation(
        "use a volume of its project's", "POST", "/api/v1/sessions?dry_run=true", "200 200 403 200 404 403",
        ("launch", "shell-command", "-p", "command=true", "--volume", "shared", "--dry-run"),
        '{"recipe": "shell-command", "parameters": {"command": "true"}, "volumes": [{"name": "shared"}]}',
    ),
    "own-secret": Operation("read a secret of its owner's", "GET", "/api/v1/secrets/hub", "200 404 404 404 404 404"),
    "project-secret": Operation(
        "read a secret of its project's", "GET", "/api/v1/secrets/store?project=physics", "200 200 404 200 404 404"
    ),
    "secrets": Operation(
        "list secrets", "GET", "/api/v1/secrets", "200 200- 200- 200- 200- 200-", ("secret", "list", "--json")
    ),
    "volumes": Operation(
        "list volumes", "GET", "/api/v1/volumes", "200 200- 200- 200- 200- 200-", ("volume", "list", "--json")
    ),
    "events": Operation(
        "events", "GET", "/api/v1/sessions/{session}/events?follow=false", "200 200 200 200 404 200",
        ("events", "{session}", "--json"),
    ),
    "audit": Operation(
        "audit rows about it", "GET", "/api/v1/audit?session={session}", "200 200- 200- 200- 200- 200",
        ("audit", "list", "--session", "{session}", "--json"),
    ),
}  # fmt: skip
#: What an answer holds that is not without what is asked for.
SOUGHT = {"list": "{session}", "secrets": '"hub"', "volumes": '"notes"', "audit": "session.create"}


def answer(operation: str, caller: str) -> str:
    """What a caller is answered: `200`, `404`, `200-`."""
    if caller in NOBODY:
        return "401"
    return OPERATIONS[operation].answers.split()[list(KNOWN).index(caller)]


_HEAD = """# Who may do what

Generated from a test by `python -m tests.cluster.access`; do not edit. Every cell is asked of a gateway before a real
Slurm cluster, with a real OpenID provider: by the API, by the command where there is one, and in a browser that is
signed in, that is not, that sends the bad tokens, and that shows forged cookies. There is a session, and who asks is
to it:

"""
_KEY = """
✓: done. 404: there is no such thing, or not for you to know of. 403: you may know of it, and may not do this.
401: who are you? ·: done, and it is not in the answer.

A secret is read without its value, which nobody is ever shown. Volumes are used in a dry run.

Policies of a site take away from this, and add nothing to it.
"""


def page() -> str:
    lines = [_HEAD.rstrip(), "", "| | |", "|---|---|"]
    lines += [f"| {name} | {words} |" for name, words in KNOWN.items()]
    lines += [f"| {name} | shows {words} |" for name, words in NOBODY.items()]
    lines += ["", f"| | {' | '.join(CALLERS)} |", f"|---|{':-:|' * len(CALLERS)}"]
    for name, operation in OPERATIONS.items():
        cells = [answer(name, caller) for caller in CALLERS]
        shown = ["·" if cell.endswith("-") else "✓" if cell.startswith("2") else cell for cell in cells]
        lines.append(f"| {operation.what} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n" + _KEY


if __name__ == "__main__":
    PAGE.write_text(page())
