"""What the Slurm in memory is made of: what a script does, what is broken, jobs and nodes."""

from dataclasses import dataclass, field
from datetime import datetime

from gateway.model.job import JobScript, SeenJob
from gateway.slurm import gres


@dataclass(frozen=True)
class Run:
    """What a script does: it runs for so many seconds and exits so. `seconds` None: until it is ended."""

    seconds: float | None = None
    exit_code: int = 0


@dataclass
class Faults:
    """What is broken now. Numbers count down with each submit; the rest stays until it is put back."""

    unavailable: bool = False  # nothing answers
    accounting_down: bool = False  # slurmdbd does not answer
    accounting_delay: float = 0.0  # seconds until it is told that it does not
    lose_requests: int = 0  # the next submits do not arrive, and who submits cannot tell
    lose_answers: int = 0  # the next submits are taken, their answers lost
    refuse_requests: int = 0  # the next submits certainly do not arrive
    late_requests: int = 0  # the next submits are answered as lost, and arrive `late_by` seconds afterwards
    late_by: float = 60.0
    double_requests: int = 0  # the next submits arrive twice: two jobs of one name
    deaf_scripts: bool = False  # batch scripts do not mind SIGTERM
    delay: float = 0.0  # seconds before any answer


@dataclass
class Taken:
    """A job that was taken."""

    script: JobScript
    user: str
    seen: SeenJob
    gpus: gres.Counts
    in_queue: bool = True
    in_accounting: bool = True
    began: datetime | None = None
    held: bool = False


@dataclass
class Host:
    """A node."""

    name: str
    cpus: int
    memory: int
    gpus: gres.Counts
    jobs: set[int] = field(default_factory=set)
    down: bool = False


def cpus(job: Taken) -> int:
    """CPUs on one of its nodes."""
    options = job.script.options
    tasks = options.tasks_per_node or -(-options.tasks // options.nodes)
    return tasks * options.cpus_per_task


def uses(counts: gres.Counts, key: tuple[str, str]) -> int:
    """How many of these a job may be using: a request or a question without a type is about all types."""
    return sum(n for (name, kind), n in counts.items() if name == key[0] and (not kind or not key[1] or kind == key[1]))
