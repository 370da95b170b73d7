"""Progress of commands that do several things in a row: what is being done now, and what took how long."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.cli import output

Tell = Callable[[str], None]
_EVERY = 10.0


class Steps:
    """On a terminal one line that rewrites itself for each step; elsewhere a line now and then. All on stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._rewrite = output.interactive(err=True) and not quiet
        self.began = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[Tell]:
        """One step; what it gives is told what goes on in it. Its line stays, with the time it took."""
        began = shown = time.monotonic()

        def tell(text: str) -> None:
            nonlocal shown
            now = time.monotonic()
            line = f"  {title}: {' '.join(text.split())}  [{now - began:.0f} s]"
            if self._rewrite:
                self._write(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}")
            elif not self._quiet and now - shown > _EVERY:
                output.note(line)
                shown = now

        if self._rewrite:
            tell("…")
        try:
            yield tell
        except BaseException:
            self._end(f"  {output.styled('✗', err=True, fg='red')} {title}", began)
            raise
        self._end(f"  {output.styled('✓', err=True, fg='green')} {title}", began)

    def _end(self, line: str, began: float) -> None:
        if self._quiet:
            return
        if self._rewrite:
            self._write("\r\033[K")
        output.note(f"{line}  {output.styled(f'{time.monotonic() - began:.1f} s', err=True, fg='bright_black')}")

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
