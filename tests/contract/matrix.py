"""The contract as a table of back end, Slurm's release and case; and what cannot be asked of whom, with the reason."""

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

NEWEST: Final = "26.05"
OLDER: Final = "24.11"
MODULES: Final = ("tests.contract.test_scheduler", "tests.contract.test_numbers", "tests.contract.test_past")


@dataclass(frozen=True)
class Way:
    """A back end before a Slurm. `release` is empty for the one in memory."""

    backend: str
    release: str

    def __str__(self) -> str:
        return f"{self.backend}-{self.release}" if self.release else self.backend


FAKE: Final = Way("fake", "")
WAYS: Final = (
    FAKE,
    *(Way(backend, NEWEST) for backend in ("rest", "cli-local", "cli-ssh", "pyslurm")),
    *(Way(backend, OLDER) for backend in ("rest", "cli-local", "cli-ssh")),
)

# (case, back end, release or * for every one) → why it is not asked there. A case is a test's name.
NOT_APPLICABLE: Final[dict[tuple[str, str, str], str]] = {
    (
        "test_the_default_partition_is_told",
        "rest",
        OLDER,
    ): "slurmrestd does not say which partition is the default before v0.0.45 (Slurm 26.05)",
    **{
        (case, "fake", "*"): "Sluice submits plain jobs only; the Slurm in memory takes nothing else"
        for case in (
            "test_the_tasks_of_an_array_are_told_by_their_own_numbers",
            "test_the_components_of_a_heterogeneous_job_are_told_by_their_own_numbers",
        )
    },
}


def why_not(case: str, way: Way) -> str | None:
    """The reason for which the case is not applicable there; None where it must pass."""
    return NOT_APPLICABLE.get((case, way.backend, way.release)) or NOT_APPLICABLE.get((case, way.backend, "*"))


def cases() -> Iterator[tuple[str, str]]:
    """Every case: the test's name, and it in words."""
    for module in MODULES:
        for name, function in inspect.getmembers(importlib.import_module(module), inspect.isfunction):
            if name.startswith("test_") and "case" in inspect.signature(function).parameters:
                yield name, name.removeprefix("test_").replace("_", " ")
