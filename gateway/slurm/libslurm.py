"""Starts and holds the process in which libslurm runs, one question at a time: it may die or hang, we may not.

A libslurm that ends its process, by a signal or by itself, costs the call that was under way; the next one starts it
again, after a pause that grows. A call that does not return in its time is ended with its process.
"""

import asyncio
import json
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog

from gateway.core.cost import Cost
from gateway.errors import LibslurmUnusable, SchedulerUnavailable
from gateway.slurm.problems import Problem

log = structlog.get_logger(__name__)

# With the worker's own grace less than what a submit may take (SUBMIT_LIFE less SEND_WITHIN): then it is surely over.
TIMEOUT: Final = 50.0
_START_WITHIN: Final = 20.0
_LONGEST_PAUSE: Final = 30.0
_LINE: Final = 1 << 26  # bytes of one answer
_WORDS_KEPT: Final = 20

# The program comes by stdin: whatever starts Python (a wrapper, another host) needs no file of ours.
_BOOT: Final = (
    "import sys; r = sys.stdin.buffer; n = int(r.readline()); "
    "exec(compile(r.read(n), 'sluice-libslurm', 'exec'), {'__name__': '__main__'})"
)
_HINTS: Final = {
    "missing": "Install pyslurm for that Python (the extra `pyslurm`), or name one that has it: pyslurm_python.",
    "library": "pyslurm must be built on this host, for the Slurm that is installed here.",
    "version": "Build pyslurm anew for the Slurm that is installed here.",
    "configuration": "Put the cluster's slurm.conf on this host, or name it in SLURM_CONF.",
    "root": "Run the gateway as the person whose jobs these are.",
}


class Refused(Exception):
    """Slurm (or pyslurm itself, `unsent`) answered with an error."""

    def __init__(self, problem: Problem, *, unsent: bool) -> None:
        super().__init__(problem.words)
        self.problem, self.unsent = problem, unsent


class Lost(Exception):
    """The process ended, or was ended, while it had the question: it may have been carried out."""


def pause(failures: int) -> float:
    """Seconds until the process is started again after so many failures in a row. Pure."""
    return min(_LONGEST_PAUSE, 0.5 * 2.0 ** (failures - 1)) if failures > 0 else 0.0


def environment(outer: dict[str, str]) -> dict[str, str]:
    """What of our environment the process gets: nothing that changes what libslurm asks for or what Python loads."""
    foreign = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCONTROL_", "PYSLURM_", "PYTHON", "SLUICE_")
    return {name: value for name, value in outer.items() if name == "SLURM_CONF" or not name.startswith(foreign)}


def program() -> bytes:
    """The worker, as it is sent to its Python."""
    return Path(__file__).with_name("libslurm_worker.py").read_bytes()


class Libslurm:
    """One such process, started when it is first needed. `start` is the command of a Python that has pyslurm."""

    def __init__(
        self,
        start: Sequence[str],
        *,
        timeout: float = TIMEOUT,
        monotonic: Callable[[], float] = time.monotonic,
        cost: Cost | None = None,
    ) -> None:
        self._start = tuple(start)
        self._timeout = timeout
        self._monotonic = monotonic
        self._cost = cost or Cost()
        self._one_at_a_time = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._said: deque[str] = deque(maxlen=_WORDS_KEPT)
        self._listening: asyncio.Task[None] | None = None
        self._failures = 0
        self._not_before = 0.0
        self._why: SchedulerUnavailable | None = None
        self.ready: dict[str, str] = {}
        """What the process said of itself: versions of pyslurm and libslurm, the user."""

    @property
    def pid(self) -> int | None:
        """The process that was started last, while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def busy(self) -> bool:
        """Whether a question is under way."""
        return self._one_at_a_time.locked()

    async def close(self) -> None:
        async with self._one_at_a_time:
            await self._end()

    async def ask(self, kind: str, **arguments: Any) -> Any:
        """One question.

        Refused. Lost: it may have been carried out. SchedulerUnavailable, LibslurmUnusable: it was not asked.
        """
        began = self._monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                await self._one_at_a_time.acquire()
        except TimeoutError as error:
            raise SchedulerUnavailable(f"libslurm was busy for {self._timeout:g} s") from error
        try:
            process = await self._running()
            left = max(1.0, self._timeout - (self._monotonic() - began))
            return await self._exchange(process, {"do": kind, "seconds": left, **arguments}, left)
        finally:
            self._one_at_a_time.release()

    async def _exchange(self, process: asyncio.subprocess.Process, question: dict[str, Any], left: float) -> Any:
        try:
            async with asyncio.timeout(left):
                answer, received = await self._say(process, json.dumps(question).encode() + b"\n")
        except TimeoutError:
            self._cost.asked(f"libslurm {question['do']}", "unanswered", 0)
            await self._failed(f"libslurm did not return from `{question['do']}` within {left:.0f} s and was ended")
        except _Ended:
            self._cost.asked(f"libslurm {question['do']}", "unanswered", 0)
            await self._failed(f"libslurm's process ended in `{question['do']}` ({await self._how(process)})")
        except BaseException:
            await self._end()  # who asked has gone: the next must not get this answer
            raise
        self._failures = 0
        call, times = f"libslurm {question['do']}", max(1, len(question.get("ids", ())))
        self._cost.asked(call, "refused" if "error" in answer else "ok", received, times)
        if "error" in answer:
            error = answer["error"]
            problem = Problem(error["number"], error["words"])
            if problem.transient:  # a new process reads slurm.conf again, which may be why
                await self._end()
            raise Refused(problem, unsent=bool(error.get("unsent")))
        return answer["answer"]

    async def _failed(self, words: str) -> NoReturn:
        self._failures += 1
        await self._end()
        wait = pause(self._failures)
        self._not_before = self._monotonic() + wait
        self._why = SchedulerUnavailable(f"{words}; it is started again in {wait:g} s")
        log.error("libslurm ended", why=words, again_in=wait, said=list(self._said)[-3:])
        raise Lost(words)

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        if self._process is not None:  # between two questions
            log.warning("libslurm ended while it was idle", how=await self._how(self._process))
            await self._end()
        if self._monotonic() < self._not_before and self._why is not None:
            raise self._why
        try:
            return await self._begin()
        except SchedulerUnavailable as error:
            self._failures += 1
            self._not_before, self._why = self._monotonic() + pause(self._failures), error
            await self._end()
            raise
        except BaseException:
            await self._end()
            raise

    async def _begin(self) -> asyncio.subprocess.Process:
        self._said.clear()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._start, "-I", "-c", _BOOT,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env=environment(dict(os.environ)), cwd="/", start_new_session=True, limit=_LINE,
            )  # fmt: skip
        except OSError as error:
            raise LibslurmUnusable(
                f"{self._start[0]} cannot be started here: {error.strerror}", hint=_HINTS["missing"]
            ) from error
        self._process = process
        self._listening = asyncio.create_task(self._listen(process))
        text, stage = program(), "start"
        try:
            async with asyncio.timeout(_START_WITHIN):
                told, _ = await self._say(process, b"%d\n%s" % (len(text), text))
                while "stage" in told:
                    stage = told["stage"]
                    told, _ = await self._hear(process)
        except TimeoutError as error:
            words = self._last_words() or f"not ready within {_START_WITHIN:g} s"
            raise self._stillborn(stage, words) from error
        except _Ended as error:
            raise self._stillborn(stage, await self._how(process)) from error
        if "unusable" in told:
            raise LibslurmUnusable(_sentence(told["unusable"], told["words"]), hint=_HINTS[told["unusable"]])
        self.ready = told["ready"]
        log.info("libslurm started", **self.ready)
        return process

    def _stillborn(self, stage: str, how: str) -> LibslurmUnusable:
        if stage == "configuration":
            return LibslurmUnusable(_sentence(stage, how), hint=_HINTS[stage])
        if stage == "import":
            return LibslurmUnusable(f"pyslurm ended its process when it was loaded: {how}", hint=_HINTS["library"])
        return LibslurmUnusable(f"{self._start[0]} did not run the worker: {how}", hint=_HINTS["missing"])

    async def _say(self, process: asyncio.subprocess.Process, data: bytes) -> tuple[dict[str, Any], int]:
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        with suppress(BrokenPipeError, ConnectionResetError):  # then the answer's end says the same
            process.stdin.write(data)
            await process.stdin.drain()
        return await self._hear(process)

    async def _hear(self, process: asyncio.subprocess.Process) -> tuple[dict[str, Any], int]:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        line = await process.stdout.readline()
        if not line.endswith(b"\n"):
            raise _Ended
        told: dict[str, Any] = json.loads(line)
        return told, len(line)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None  # noqa: S101 - a pipe was asked for
        while line := await process.stderr.readline():
            self._said.append(line.decode(errors="replace").strip())

    async def _how(self, process: asyncio.subprocess.Process) -> str:
        """How a process ended, with the last that it said."""
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await process.wait()
            if self._listening is not None:
                async with asyncio.timeout(1):
                    await asyncio.shield(self._listening)
        code = process.returncode
        said = self._last_words()
        how = "still there" if code is None else signal_name(code) or f"exit code {code}"
        return f"{how}: {said}" if said else how

    def _last_words(self) -> str:
        return next((line for line in reversed(self._said) if line), "")

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            if process.stdin is not None:
                process.stdin.close()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
            self._listening = None


class _Ended(Exception):
    """The process closed its end."""


def signal_name(code: int) -> str:
    """`SIGSEGV` for what a process ended by it returns, also where a wrapper passes it on as 128 and more; or ""."""
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


def _sentence(kind: str, words: str) -> str:
    match kind:
        case "missing":
            return f"that Python has no pyslurm: {words}"
        case "library":
            return f"pyslurm does not go with the libslurm of this host: {words}"
        case "configuration":
            return f"libslurm finds no configuration it can use: {words}"
        case _:
            return words
