"""How a command travels: a process on this machine, or ssh. Both are the Shell port.

A failure to run raises Unavailable whose `details["started"]` says whether the command may have run. What is
given in `env` can be read by others on that machine (`ps`), so it is no place for secrets.
"""

import asyncio
import math
import os
import pwd
import shlex
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import asyncssh

from gateway.core.ports import CommandResult, LineHandler
from gateway.errors import Forbidden, Invalid, Unavailable
from gateway.slurm.ssh import Session, SshConnections
from gateway.slurm.ssh_login import Unreachable

_CHUNK: Final = 1 << 16


class LocalShell:
    """Runs programs here, as the person who runs the gateway, and as nobody else."""

    def __init__(self) -> None:
        account = pwd.getpwuid(os.getuid())
        self._user = account.pw_name
        self._home = account.pw_dir

    async def close(self) -> None:
        return

    async def run(
        self,
        argv: Sequence[str],
        *,
        user: str,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  the port says so: a killed command needs its own cleaning up
        on_line: LineHandler | None = None,
    ) -> CommandResult:
        if user != self._user:
            raise Forbidden(
                f"this gateway runs as {self._user} and starts nothing as {user}",
                hint="In single-user mode unix_user is who runs the gateway; for other users set ssh_host.",
            )
        _check(argv)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **env} if env else None,
                cwd=self._home if os.path.isdir(self._home) else "/",  # noqa: PTH112, ASYNC240  one look, once
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(f"{argv[0]} cannot be started here: {error.strerror}", started=False) from error
        out, err = process.stdout, process.stderr
        if out is None or err is None:
            raise AssertionError

        async def feed() -> None:
            if stdin is not None and process.stdin is not None:
                with suppress(BrokenPipeError, ConnectionResetError):
                    process.stdin.write(stdin)
                    await process.stdin.drain()
                process.stdin.close()

        try:
            async with asyncio.timeout(timeout):
                _, stdout, stderr = await asyncio.gather(
                    feed(), _drain(lambda: out.read(_CHUNK), on_line), _drain(lambda: err.read(_CHUNK), on_line)
                )
                returncode = await process.wait()
        except TimeoutError as error:
            raise Unavailable(f"{argv[0]} did not end within {timeout:g} s", started=True) from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return CommandResult(returncode=returncode, stdout=stdout, stderr=stderr)


class SshShell:
    """Runs programs on one host, each as its user, over the user's one connection."""

    def __init__(self, connections: SshConnections) -> None:
        self._connections = connections

    async def close(self) -> None:
        await self._connections.close()

    async def run(
        self,
        argv: Sequence[str],
        *,
        user: str,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  as above
        on_line: LineHandler | None = None,
    ) -> CommandResult:
        _check(argv)
        words = [*(["env", *(f"{name}={value}" for name, value in env.items())] if env else []), *argv]
        if timeout is not None:  # what we no longer wait for shall not run on there, whatever becomes of the connection
            words = ["timeout", "-k", "5", str(math.ceil(timeout) + 2), *words]
        command = shlex.join(words)  # the one place where anything is quoted
        session: Session | None = None
        try:
            async with asyncio.timeout(timeout), self._connections.session(user) as session:
                process = await session.open(command)
                try:
                    return await _follow(process, stdin, on_line)
                finally:
                    if process.exit_status is None and process.exit_signal is None:
                        # not waited for: a host that hangs would hold us as well
                        with suppress(OSError, asyncssh.Error):
                            process.terminate()
                        process.close()
        except TimeoutError as error:
            words_of_it = f"{argv[0]} on {self._connections} did not end within {timeout:g} s"
            raise Unavailable(words_of_it, started=_started(session)) from error
        except Unreachable as error:
            raise Unavailable(f"{argv[0]} cannot be run: {error}", started=_started(session)) from error
        except Forbidden as error:
            raise Unavailable(error.message, hint=error.hint, started=False) from error
        except (asyncssh.Error, OSError) as error:
            raise Unavailable(f"{argv[0]} on {self._connections}: {error}", started=_started(session)) from error


def _started(session: Session | None) -> bool:
    return session is not None and session.started


async def _follow(
    process: "asyncssh.SSHClientProcess[bytes]", stdin: bytes | None, on_line: LineHandler | None
) -> CommandResult:
    async def feed() -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            if stdin is not None:
                process.stdin.write(stdin)
                await process.stdin.drain()
            process.stdin.write_eof()

    _, stdout, stderr = await asyncio.gather(
        feed(),
        _drain(lambda: process.stdout.read(_CHUNK), on_line),
        _drain(lambda: process.stderr.read(_CHUNK), on_line),
    )
    done = await process.wait()
    if done.exit_status is None or done.exit_status < 0:
        if done.exit_signal is None:  # the streams ended without an end of the command
            raise asyncssh.ConnectionLost("the connection broke before the command ended")
        name = done.exit_signal[0]
        return CommandResult(returncode=-_signal_number(name), stdout=stdout, stderr=stderr)
    return CommandResult(returncode=done.exit_status, stdout=stdout, stderr=stderr)


async def _drain(read: Callable[[], Awaitable[bytes]], on_line: LineHandler | None) -> str:
    """Everything the stream gives; whole lines to `on_line` as they come, of any length."""
    whole = bytearray()
    told = 0
    while chunk := await read():
        whole += chunk
        while on_line is not None and (end := whole.find(b"\n", told)) >= 0:
            on_line(whole[told:end].decode(errors="replace"))
            told = end + 1
    if on_line is not None and told < len(whole):
        on_line(whole[told:].decode(errors="replace"))
    return whole.decode(errors="replace")


def _check(argv: Sequence[str]) -> None:
    if not argv or not argv[0]:
        raise Invalid("no command was given")
    if any("\0" in word for word in argv):
        raise Invalid(f"an argument of {argv[0]} holds a NUL character")


def _signal_number(name: str) -> int:
    return int(getattr(signal, f"SIG{name}", signal.SIGKILL))
