"""`sluice chat`: talk to a model that a session serves, through the gateway's /v1."""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import complete, output
from gateway.errors import Conflict, NotFound, NotReady, SluiceError

if TYPE_CHECKING:
    from gateway.sdk import Session, Sluice

#: Seconds; who is answered sooner is told nothing.
_LOOK_AGAIN = 1.0
_BYE = {"/quit", "/exit", "/bye"}
_HELP = "/clear forgets the conversation, /quit (or Ctrl-D) ends it."


@click.command()
@click.argument("target", required=False, metavar="[SESSION|MODEL]", shell_complete=complete.sessions)
@click.argument("message", required=False)
@click.option("--system", metavar="TEXT", help="What the model is told first.")
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Longest answer.")
@click.option("--temperature", type=float, metavar="T", help="0: always the likeliest word.")
@output.json_option
def chat(
    *,
    target: str | None,
    message: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    as_json: bool,
) -> None:
    """Ask the model of a SESSION (or a MODEL by its name), and show the answer as it comes.

    \b
    sluice chat demo 'What is a partition?'
    echo 'What is a partition?' | sluice chat demo
    sluice chat demo                     a conversation
    sluice chat 'What is a partition?'   where only one model is ready
    """
    from gateway.cli.client import connect

    options = {"max_tokens": max_tokens, "temperature": temperature}
    with connect() as sluice:
        model, name, message = _resolve(sluice, target, message)
        talk = _Talk(sluice, model, system, options)
        if message is None and not as_json and sys.stdin.isatty():
            _converse(talk, name)
            return
        text = "".join(talk.ask(_asked(message), show=not as_json))
        if as_json:
            output.emit({"model": name, "answer": text})


class _Talk:
    """A conversation: every question is asked with what was said before."""

    def __init__(self, sluice: "Sluice", model: str, system: str | None, options: dict[str, Any]) -> None:
        self._sluice, self._model, self._options = sluice, model, options
        self._first = [{"role": "system", "content": system}] if system else []
        self.clear()

    def clear(self) -> None:
        self._messages = list(self._first)

    def ask(self, question: str, *, show: bool) -> list[str]:
        """The pieces of the answer, printed as they come if `show`. A question without an answer is not kept."""
        messages = [*self._messages, {"role": "user", "content": question}]
        pieces: list[str] = []
        with _progress(self._sluice, self._model) as begun:
            for piece in self._sluice.chat(messages, model=self._model, **self._options):
                begun()
                pieces.append(piece)
                if show:
                    click.echo(piece, nl=False)
        if show:
            click.echo()
        self._messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]
        return pieces


@contextmanager
def _progress(sluice: "Sluice", model: str) -> Iterator[Callable[[], None]]:
    """Say how a session that sleeps comes up, until it is told that the answer has begun."""
    begun = threading.Event()

    def tell() -> None:
        said = ""
        while not begun.wait(_LOOK_AGAIN):
            with suppress(SluiceError):
                session = sluice.sessions.get(model)
                if session.phase == "ready":
                    return
                if (words := session.view.reason if session.view.reason == "asleep" else session.phase) != said:
                    said = words
                    output.note(f"Session {session.name} is {words}: the question starts it, and waits.")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield begun.set
    finally:
        begun.set()


def _converse(talk: _Talk, name: str) -> None:
    _editing()
    output.note(f"Talking to {name}. {_HELP}")
    for line in _lines():
        if line in _BYE:
            return
        if line == "/clear":
            talk.clear()
            continue
        if line.startswith("/"):
            output.note(_HELP)
            continue
        try:
            talk.ask(line, show=True)
        except KeyboardInterrupt:
            click.echo()
        except SluiceError as error:
            output.note(f"Error: {error}")


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            click.echo()
            return
        if line:
            yield line


def _editing() -> None:
    """Arrow keys and history in the prompt, where Python was built with readline."""
    try:
        import readline  # noqa: F401 -- importing it is what does it
    except ImportError:
        return


def _asked(message: str | None) -> str:
    question = sys.stdin.read() if message is None or message == "-" else message
    if not question.strip():
        raise click.UsageError("There is no message: give one, or pipe it in.")
    return question


def _resolve(sluice: "Sluice", target: str | None, message: str | None) -> tuple[str, str, str | None]:
    """What to write in `model` (a session's id leads to just that one), its name for people, and the message."""
    live = list(sluice.sessions.list(ended=False))
    serving = [session for session in live if session.model is not None]
    if target is not None and (found := _named(serving, target)):
        return *found, message
    if target is not None and (message is not None or not _is_message(target)):
        raise _unknown(target, live, serving)
    ready = [session for session in serving if session.phase == "ready"]
    if len(ready) == 1:
        return ready[0].id, ready[0].name, target
    if not ready:
        raise NotFound(
            "no model is ready", hint="Start one: sluice launch llama-cpp" if not serving else _coming(serving)
        )
    names = ", ".join(session.name for session in ready)
    raise Conflict(f"several models are ready: {names}", hint="Say which: sluice chat NAME")


def _named(serving: Iterable["Session"], target: str) -> tuple[str, str] | None:
    for session in serving:
        if target in (session.id, session.name):
            if session.phase != "ready" and not _wakes(session):
                raise NotReady(
                    f"session {session.name} is not ready: it is {session.phase}",
                    hint=f"Wait for it: sluice wait {session.name}",
                )
            return session.id, session.name
    return (target, target) if any(target == session.model for session in serving) else None


def _wakes(session: "Session") -> bool:
    """Whether a request starts it."""
    return session.view.replicas is not None and session.view.replicas.min == 0


def _is_message(text: str) -> bool:
    """One argument that is no name: several words, or something that no name may contain."""
    return not all(letter.isalnum() or letter in "-_.:/" for letter in text)


def _unknown(target: str, live: Iterable["Session"], serving: Iterable["Session"]) -> Exception:
    if any(target in (session.id, session.name) for session in live):
        return Conflict(f"session {target} serves no model", hint=f"What it is: sluice show {target}")
    known = sorted({name for session in serving for name in (session.name, session.model or "") if name})
    near = get_close_matches(target, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known) or 'none'}."
    return NotFound(f"there is no session or model {target!r}", hint=hint)


def _coming(serving: Iterable["Session"]) -> str:
    return "Wait for it: " + " or ".join(f"sluice wait {session.name}" for session in serving)
