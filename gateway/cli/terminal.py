"""One program in a job, seen from here: our input and output are its own, our terminal is its terminal."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from gateway.cli import output
from gateway.cli.inside import ERRORS, INPUT, OUTPUT, PIECE, dial, error_of, read_words, words
from gateway.errors import Unavailable

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from gateway.sdk import Sluice

#: Input that the program has not taken yet. More is not read here: what is typed for others stays ours.
_AHEAD = 1 << 18
_DETACHED = 255
_WITH_ITS_JOB = "It ended with its job. If session {0} goes on in another, the next command runs there: sluice show {0}"
_SIGNALS = ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2")
_IMPATIENT = 3


def run(sluice: "Sluice", session: str, argv: Sequence[str], *, tty: bool) -> int:
    """Run it there; its exit code."""
    terminal = _Terminal(sluice, session, argv, tty=tty)
    code = asyncio.run(terminal.run())
    if terminal.with_its_job:
        output.note(_WITH_ITS_JOB.format(session))
    return code


class _Terminal:
    def __init__(self, sluice: "Sluice", session: str, argv: Sequence[str], *, tty: bool) -> None:
        self._sluice, self._session, self._argv, self._tty = sluice, session, list(argv), tty
        self._socket: ClientConnection
        self._loop: asyncio.AbstractEventLoop
        self._room = threading.Condition()
        self._waiting = 0  # bytes of input that the program has not taken
        self._left: asyncio.Event
        self._interrupts = 0
        self.with_its_job = False  # it ended because its job did
        self._sending: asyncio.Task[None] | None = None

    async def run(self) -> int:
        self._loop, self._left = asyncio.get_running_loop(), asyncio.Event()
        self._socket = await dial(self._sluice, self._session, "terminal")
        async with self._socket:
            with _raw() if self._tty else nullcontext(), self._signals():
                await self._socket.send(words(start=self._start()))
                threading.Thread(target=self._read, daemon=True).start()
                shown = asyncio.create_task(self._show())
                left = asyncio.create_task(self._left.wait())
                await asyncio.wait({shown, left}, return_when=asyncio.FIRST_COMPLETED)
                left.cancel()
                if not shown.done():
                    shown.cancel()
                    return _DETACHED
                return shown.result()

    def _start(self) -> dict[str, object]:
        if not self._tty:
            return {"argv": self._argv}
        rows, columns = _size()
        term = os.environ.get("TERM", "xterm")
        return {"argv": self._argv, "tty": True, "rows": rows, "columns": columns, "term": term}

    async def _show(self) -> int:
        """What the program writes, to our own outputs; its exit code."""
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                data = await self._socket.recv(decode=False)
                kind, content = data[0], data[1:]
                if kind in {OUTPUT, ERRORS}:
                    await asyncio.to_thread(_write, 1 if kind == OUTPUT else 2, content)
                    continue
                told = read_words(content)
                if "exit" in told:
                    self.with_its_job = bool(told.get("job_ends"))
                    return int(told["exit"])
                if "error" in told:
                    raise error_of(told)
                self._taken(int(told.get("taken", 0)))
        except ConnectionClosed as error:
            raise Unavailable(
                f"the connection to session {self._session} was lost",
                hint=f"Its job may have ended: sluice show {self._session}",
            ) from error

    # What is typed

    def _read(self) -> None:
        """Runs beside the loop: reading standard input cannot be waited for in every case, and must end nothing."""
        escape = _Escape()
        while True:
            with self._room:
                self._room.wait_for(lambda: self._waiting < _AHEAD)
            try:
                data = os.read(0, PIECE)
            except OSError:
                data = b""
            if self._tty and escape.seen(data):
                self._loop.call_soon_threadsafe(self._left.set)
                return
            with self._room:
                self._waiting += len(data)
            with suppress(RuntimeError):  # the loop is closed: all is over
                asyncio.run_coroutine_threadsafe(self._send(bytes([INPUT]) + data), self._loop)
            if not data:
                return

    def _taken(self, size: int) -> None:
        """So much more of the input is the program's."""
        with self._room:
            self._waiting -= size
            self._room.notify()

    async def _send(self, data: bytes) -> None:
        from websockets.exceptions import ConnectionClosed

        with suppress(ConnectionClosed):
            await self._socket.send(data)

    # Signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """A change of our window's size is told; without a terminal there, so are signals."""
        numbers = [signal.SIGWINCH] if self._tty else [getattr(signal, f"SIG{name}") for name in _SIGNALS]
        for number in numbers:
            self._loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in numbers:
                self._loop.remove_signal_handler(number)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGWINCH:
            told = words(resize=list(_size()))
        else:
            self._interrupts += 1
            if self._interrupts > _IMPATIENT:
                self._left.set()
            told = words(signal=signal.Signals(number).name.removeprefix("SIG"))
        self._sending = self._loop.create_task(self._send(told))


class _Escape:
    """Notices `~.` at the beginning of a line: the way out when nothing answers, as ssh has it."""

    def __init__(self) -> None:
        self._last = b"\r"

    def seen(self, data: bytes) -> bool:
        for at in range(len(data)):
            self._last = (self._last + data[at : at + 1])[-3:]
            if self._last in {b"\r~.", b"\n~."}:
                return True
        return False


@contextmanager
def _raw() -> Iterator[None]:
    """Every key goes there, Ctrl-C too."""
    import termios
    import tty

    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is not lost
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _size() -> tuple[int, int]:
    for descriptor in (1, 0, 2):
        with suppress(OSError):
            size = os.get_terminal_size(descriptor)
            return size.lines, size.columns
    return 24, 80


def _write(descriptor: int, data: bytes) -> None:
    (sys.stdout if descriptor == 1 else sys.stderr).flush()
    while data:
        data = data[os.write(descriptor, data) :]
