"""Commands on several things: one that fails does not keep the others from being done."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gateway.cli.errors import report
from gateway.errors import SluiceError

T = TypeVar("T")


@dataclass
class Outcome(Generic[T]):
    """What was done, and what went wrong."""

    done: list[T] = field(default_factory=list)
    errors: list[SluiceError] = field(default_factory=list)

    def finish(self) -> None:
        """Raise the last error; it decides the exit code. The ones before it have been said."""
        if self.errors:
            raise self.errors[-1]


def for_each(names: Iterable[str], do: Callable[[str], T]) -> Outcome[T]:
    """Do it for each name."""
    outcome: Outcome[T] = Outcome()
    for name in names:
        try:
            outcome.done.append(do(name))
        except SluiceError as error:
            if outcome.errors:
                report(outcome.errors[-1], as_json=False)
            outcome.errors.append(error)
    return outcome
