"""A terminal in the job: one program more in the container, with the caller's input and output.

The first message says what is to run; see docs/concepts/agent.md. How much input was taken is told, so that a caller
holds back and its signals never wait behind input that nobody reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import shutil
import signal
import struct
import termios
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, cast

from . import errors, frames
from .inside import SHELL
from .processes import children, kill_all, session_of

if TYPE_CHECKING:
    from .edge import Edge
    from .inside import Entry
    from .landing import Bytes
    from .processes import Payload

#: Input that may wait for the program; a caller that sends more does not keep to the rules.
MOST_WAITING = 4 << 20
#: How long output may follow the end of the program, from what it left behind.
LAST_WORDS_SECONDS = 1.0
#: The caller closes when it has read the end: who closes first may cost the other its last bytes.
LINGER_SECONDS = 60.0
#: How long a program whose caller has gone has to end itself.
PATIENCE_SECONDS = 5.0
PATIENCE_AT_THE_END = 0.5
_SIGNALS = frozenset(("HUP", "INT", "QUIT", "TERM", "KILL", "USR1", "USR2", "CONT", "TSTP", "WINCH", "ALRM"))
_LARGEST = 0xFFFF

Enter = Callable[[Sequence[str], Mapping[str, str]], "Entry"]


class Terminal:
    """The handler of one connection. `enter` says how a program is started in the container; ValueError if it cannot.

    `touch` is told that somebody is busy here. `job_ends`: the job does, and with it what runs in it.
    """

    def __init__(
        self, edge: Edge, enter: Enter, payload: Payload, touch: Callable[[], None], job_ends: Callable[[], bool]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._edge = edge
        self._enter = enter
        self._payload = payload
        self._touch = touch
        self._job_ends = job_ends
        self._frames = frames.Frames()
        self._pid: Optional[int] = None
        self._joined = False
        self._master: Optional[int] = None
        self._input: Optional[asyncio.WriteTransport] = None
        self._early: List[bytes] = []  # input that came before its pipe was open
        self._waiting = 0
        self._outputs: Dict[int, asyncio.ReadTransport] = {}
        self._open: Set[int] = set()
        self._code: Optional[int] = None
        self._last_word = 0.0
        self._gone = False
        self._choked = False
        self._opening: Optional[asyncio.Task[None]] = None
        self._lingering: Optional[asyncio.TimerHandle] = None
        self.over = asyncio.Event()  # the caller was told the end, or has gone

    # From the edge.

    def received(self, data: Bytes) -> None:
        if self._gone:
            return
        self._touch()
        try:
            for kind, content in self._frames.feed(data):
                if kind == frames.INPUT:
                    self._take(content)
                elif kind == frames.WORDS:
                    self._hear(frames.read_words(content))
        except (ValueError, TypeError, KeyError) as error:
            self._finish(error=str(error))

    def ended(self) -> None:
        self._edge.close()

    def lost(self) -> None:
        """Nobody is there any more: the program is told as a terminal tells it, and ended if it does not end."""
        self._gone = True
        self.over.set()
        if self._lingering is not None:
            self._lingering.cancel()
        if self._opening is not None:
            self._opening.cancel()
        targets = self._targets() if self._pid is not None and self._code is None else []
        if self._input is not None and not self._input.is_closing():
            self._input.abort()
        for output in list(self._outputs.values()):
            output.close()
        self._close_master()
        if self._pid is not None and self._code is None:
            kill_all(targets, signal.SIGHUP)
            self._loop.call_later(PATIENCE_SECONDS, self._end, self._pid, [*targets, self._pid])

    def end(self) -> None:
        """The job ends, and the program with it: its caller is told before the connection is closed."""
        if self._pid is not None and self._code is None:
            targets = [*self._targets(), self._pid]
            kill_all(targets, signal.SIGHUP)
            kill_all(targets, signal.SIGTERM)
            self._loop.call_later(PATIENCE_AT_THE_END, self._end, self._pid, targets)

    def choke(self) -> None:
        self._choked = True
        for transport in self._outputs.values():
            transport.pause_reading()

    def unchoke(self) -> None:
        self._choked = False
        for transport in self._outputs.values():
            transport.resume_reading()

    # From the program.

    def wrote(self, kind: int, data: bytes) -> None:
        self._touch()
        self._last_word = self._loop.time()
        self._edge.write(frames.pack(kind, data))

    def closed(self, kind: int) -> None:
        self._open.discard(kind)
        self._outputs.pop(kind, None)
        if not self._open:
            self._maybe_done()

    def drained(self) -> None:
        """All the input that came is the program's, or nobody's any more."""
        if self._waiting and not self._gone:
            self._edge.write(frames.words(taken=self._waiting))
            self._waiting = 0

    # Within.

    def _hear(self, words: Dict[str, Any]) -> None:
        if "start" in words:
            if self._pid is not None:
                raise ValueError("a program runs here already")
            self._start(words["start"])
        elif self._pid is None:
            raise ValueError('the first message is {"start": …}')
        elif "resize" in words:
            rows, columns = words["resize"]
            self._resize(int(rows), int(columns))
        elif "signal" in words and self._code is None:
            if words["signal"] not in _SIGNALS:
                raise ValueError(f"no signal to send: {str(words['signal'])[:40]!r}")
            kill_all(self._targets(), getattr(signal, f"SIG{words['signal']}"))

    def _start(self, wanted: Dict[str, Any]) -> None:
        argv = [str(word) for word in wanted.get("argv") or SHELL]
        if any("\0" in word for word in argv):
            raise ValueError("an argument cannot hold a NUL character")
        tty = bool(wanted.get("tty"))
        entry = self._enter(argv, {"TERM": str(wanted.get("term") or "dumb")} if tty else {})
        self._joined = entry.joined
        try:
            if tty:
                self._start_on_tty(entry, wanted)
            else:
                self._start_on_pipes(entry)
        except OSError as error:
            raise ValueError(f"{entry.argv[0]} cannot be started: {error.strerror or error}") from None
        self._edge.write(frames.words(started=True, joined=entry.joined))

    def _start_on_tty(self, entry: Entry, wanted: Dict[str, Any]) -> None:
        setsid = shutil.which("setsid") or "setsid"
        master, slave = pty.openpty()
        self._master = master
        self._resize(int(wanted.get("rows") or 24), int(wanted.get("columns") or 80))
        try:
            # setsid makes it the controlling terminal: in a child of a process with threads we run nothing of ours.
            argv = [setsid, "--ctty", *entry.argv]
            self._pid = self._payload.spawn(argv, entry.environment, (slave, slave, slave), self._exited)
        finally:
            os.close(slave)
        self._open = {frames.OUTPUT}
        self._opening = self._loop.create_task(self._connect(os.dup(master), {frames.OUTPUT: os.dup(master)}))

    def _start_on_pipes(self, entry: Entry) -> None:
        (stdin, to), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
        try:
            given = (stdin, stdout, stderr)
            self._pid = self._payload.spawn(entry.argv, entry.environment, given, self._exited, new_session=True)
        except OSError:
            for descriptor in (to, out, err):
                os.close(descriptor)
            raise
        finally:
            for descriptor in (stdin, stdout, stderr):
                os.close(descriptor)
        self._open = {frames.OUTPUT, frames.ERRORS}
        self._opening = self._loop.create_task(self._connect(to, {frames.OUTPUT: out, frames.ERRORS: err}))

    async def _connect(self, to: int, outputs: Dict[int, int]) -> None:
        pipe = os.fdopen(to, "wb", 0)
        pipes = {kind: os.fdopen(descriptor, "rb", 0) for kind, descriptor in outputs.items()}
        for kind, output in pipes.items():
            reader, _ = await self._loop.connect_read_pipe(partial(_Output, self, kind), output)
            self._outputs[kind] = reader
            if self._choked:
                self._outputs[kind].pause_reading()
        transport, _ = await self._loop.connect_write_pipe(lambda: _Input(self), pipe)
        transport.set_write_buffer_limits(high=0)
        self._input = transport
        early, self._early = self._early, []
        for data in early:
            self._write(data)

    def _take(self, data: bytes) -> None:
        self._waiting += len(data)
        if self._waiting > MOST_WAITING:
            raise ValueError("input came faster than it was taken")
        if self._input is None and self._code is None:
            self._early.append(data)
        else:
            self._write(data)

    def _write(self, data: bytes) -> None:
        transport = self._input
        if transport is None or transport.is_closing():
            self.drained()
        elif data:
            transport.write(data)
            if not transport.get_write_buffer_size():
                self.drained()
        elif self._master is not None:
            transport.write(b"\x04")  # the end of input, as a terminal says it
        else:
            transport.write_eof()

    def _resize(self, rows: int, columns: int) -> None:
        if self._master is not None and 0 < rows <= _LARGEST and 0 < columns <= _LARGEST:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _targets(self) -> List[int]:
        """The program itself: what was started may only be its parent, which would die of the signal alone."""
        pid = cast("int", self._pid)
        return (children(pid) or [pid]) if self._joined else [pid]

    def _exited(self, returncode: int) -> None:
        self._code = errors.exit_code(returncode)
        self._last_word = self._loop.time()
        self._maybe_done()

    def _maybe_done(self) -> None:
        """The end is told when all that was written is out. What was left behind may hold the outputs for ever."""
        if self._code is None or self._gone:
            return
        quiet = not self._choked and self._loop.time() - self._last_word >= LAST_WORDS_SECONDS
        if self._open and not quiet:
            self._loop.call_later(LAST_WORDS_SECONDS / 4, self._maybe_done)
            return
        self._finish(exit=self._code, **({"job_ends": True} if self._job_ends() else {}))

    def _finish(self, **words: Any) -> None:
        if not self._gone:
            self._gone = True
            self.over.set()
            self._edge.write(frames.words(**words))
            self._lingering = self._loop.call_later(LINGER_SECONDS, self._edge.close)

    def _close_master(self) -> None:
        if self._master is not None:
            os.close(self._master)
            self._master = None

    def _end(self, session: int, pids: Sequence[int]) -> None:
        kill_all([pid for pid in pids if session_of(pid) == session], signal.SIGKILL)


class _Input(asyncio.BaseProtocol):
    """The program's standard input."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def connection_lost(self, _exc: Optional[Exception]) -> None:
        with contextlib.suppress(RuntimeError):
            self._terminal.drained()

    def pause_writing(self) -> None:
        """It is told what was taken, no more."""

    def resume_writing(self) -> None:
        self._terminal.drained()


class _Output(asyncio.Protocol):
    """One of the program's outputs."""

    def __init__(self, terminal: Terminal, kind: int) -> None:
        self._terminal = terminal
        self._kind = kind

    def data_received(self, data: bytes) -> None:
        self._terminal.wrote(self._kind, data)

    def connection_lost(self, _exc: Optional[Exception]) -> None:
        self._terminal.closed(self._kind)
