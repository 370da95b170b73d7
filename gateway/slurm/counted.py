"""A shell whose runs of Slurm's commands are counted."""

from collections.abc import Mapping, Sequence

from gateway.core.cost import Cost
from gateway.core.ports import CommandResult, LineHandler, Shell
from gateway.slurm import commands


class CountedShell:
    """The Shell port around another shell."""

    def __init__(self, inner: Shell, cost: Cost) -> None:
        self._inner, self._cost = inner, cost

    async def run(
        self,
        argv: Sequence[str],
        *,
        user: str,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the port's word
        on_line: LineHandler | None = None,
    ) -> CommandResult:
        program, times = commands.programs(argv)
        try:
            done = await self._inner.run(argv, user=user, stdin=stdin, env=env, timeout=timeout, on_line=on_line)
        except Exception:
            self._cost.asked(program, "unanswered", 0)
            raise
        received = len(done.stdout) + len(done.stderr)
        self._cost.asked(program, "ok" if done.returncode == 0 else "refused", received, times)
        return done

    async def close(self) -> None:
        await self._inner.close()
