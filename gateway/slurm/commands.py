"""Slurm's commands as pure pairs: build the argument list, parse what is printed.

Every field ends with a `mark` that the caller draws at random for each call: a job's name or comment is its
owner's to choose, may hold any separator and even line breaks, and must not be able to forge another job's row.
`-O`/`--format` because `--json` prints 8 kB a job (81 MB at 10,000 jobs, where the fields below take 0.2 s).
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.model.doctor import Association, Load
from gateway.model.job import JobScript, SeenJob
from gateway.slurm import rest_parse, states, times

# The program is found on the login PATH, then starts in an environment of ours: what the user's profile sets
# (SBATCH_*, SQUEUE_*, a language) must not change what is asked, and must not get into the job.
_FIND: Final = 'program=$(command -v "$1") || { echo "$1: command not found" >&2; exit 127; }; shift; '
_CLEAN: Final = f'exec env -i PATH={rest_parse.PATH} ${{SLURM_CONF:+SLURM_CONF="$SLURM_CONF"}} '
_START: Final = '"$program" "$@"'
# A connection that breaks half-way ends the script early, and half a script must not become a job: it is counted
# before it is passed on. A job's files are made with this mask until the agent sets its own; slurmrestd's is the same.
_WHOLE: Final = (
    'LC_ALL=C; script=$(cat; printf x); script=${script%x}; [ "${#script}" -eq LENGTH ] || '
    '{ echo "the script was cut short" >&2; exit 65; }; umask 022; printf %s "$script" | '
)
_ANY_STATE: Final = ("--noheader", "--all", "--states=all")
_EACH: Final = "for id; do "
# sbatch may wait minutes for a controller that hangs. After this long nobody knows of it any more, so it must end:
# what is looked up by name later (SUBMIT_LIFE in gateway.model.session) must not be sent after that.
SBATCH_SECONDS: Final = 40
_BOUNDED: Final = f'limit=$(command -v timeout) && limit="$limit -k 5 {SBATCH_SECONDS}"; '
_ASKING: Final = "LC_ALL=C.UTF-8 SLURM_TIME_FORMAT=%s "

_SQUEUE_FIELDS: Final = (
    "JobID",
    "Name",
    "UserName",
    "State",
    "Reason",
    "NodeList",
    "Comment",
    "RestartCnt",
    "exit_code",
    "SubmitTime",
    "StartTime",
    "EndTime",
    "TimeLimit",
)
_SACCT_FIELDS: Final = (
    "JobIDRaw",
    "JobName",
    "User",
    "State",
    "Reason",
    "NodeList",
    "Comment",
    "Restarts",
    "ExitCode",
    "Submit",
    "Start",
    "End",
    "TimelimitRaw",
)
_EMPTY: Final = frozenset({"(null)", "N/A", "None", "None assigned", "Unknown"})


class Unreadable(ValueError):
    """A command printed something else than it was asked for."""


@dataclass(frozen=True)
class Command:
    """What to run: an argument list (never a shell's line) and what it reads."""

    argv: tuple[str, ...]
    stdin: bytes | None = None

    @property
    def name(self) -> str:
        return self.argv[4]


def programs(argv: Sequence[str]) -> tuple[str, int]:
    """Which program of Slurm's a command runs, and how many times."""
    name, *arguments = argv[4:] or argv[:1]
    return name, len(arguments) - 1 if _EACH in "".join(argv[2:3]) else 1


def command(program: str, *arguments: str) -> Command:
    return Command(("sh", "-c", f"{_FIND}{_CLEAN}{_ASKING}{_START}", "sh", program, *arguments))


def sbatch(script: JobScript) -> Command:
    """Submit. The options win over `#SBATCH` lines and say the same as a REST submission (`rest_parse.submission`).

    The command line is public (SubmitLine), so it holds what `squeue` shows to everybody anyway; the script goes
    by stdin. `--export=ALL` exports the clean environment: NONE would load the user's profile on the node.
    """
    text = script.text.encode()
    whole = _WHOLE.replace("LENGTH", str(len(text)))
    start = f"{_FIND}{_BOUNDED}{whole}{_CLEAN}$limit {_START}"
    told = (f"--{name}" if value is None else f"--{name}={value}" for name, value in script.options.arguments())
    options = ("--parsable", "--export=ALL", *told)
    return Command(("sh", "-c", start, "sh", "sbatch", *options), text)


def parse_sbatch(stdout: str) -> int | None:
    """The job id of `--parsable` (`123` or `123;cluster`); a site's greeting may stand before it."""
    for line in reversed(stdout.splitlines()):
        if found := re.fullmatch(r"(\d+)(?:;\S*)?", line.strip()):
            return int(found[1])
    return None


def squeue_states(job_ids: Sequence[int]) -> Command:
    """Number and state of these jobs, unknown ones left out: 10 ms and 20 kB for 1,000, however long the queue is.

    Slurm 24.05 and later; it may stand with no other option than these.
    """
    return command(
        "squeue",
        "--noheader",
        "--only-job-state",
        "--states=all",
        f"--jobs={','.join(map(str, job_ids))}",
        "--format=%A %T",
    )


def parse_states(stdout: str) -> dict[int, str]:
    """The state words by job number, also of tasks of arrays and of components of heterogeneous jobs."""
    found: dict[int, str] = {}
    for line in stdout.splitlines():
        number, _, words = line.strip().partition(" ")
        if not words or not number.isdecimal():
            raise Unreadable(f"squeue printed {line!r} for the state of a job")
        found.setdefault(int(number), words)
    return found


def squeue(job_ids: Sequence[int], mark: str) -> Command:
    """These jobs, whatever their state. One unknown id alone is an error (2017), among others it is left out.

    For several jobs squeue fetches the whole queue and picks them (0.1 s and 25 ms of slurmctld at 10,000 jobs).
    """
    return command("squeue", *_ANY_STATE, f"--jobs={','.join(map(str, job_ids))}", f"--Format={_marked(mark)}")


def squeue_each(job_ids: Sequence[int], mark: str) -> Command:
    """The same, each job asked for alone, which slurmctld answers in 0.1 ms: for a few of them."""
    each = f'( {_CLEAN}{_ASKING}"$program" {" ".join(_ANY_STATE)} "$form" "--jobs=$id" ) || code=$?'
    script = f"{_FIND}form=$1; shift; code=0; {_EACH}{each}; done; exit $code"
    return Command(("sh", "-c", script, "sh", "squeue", f"--Format={_marked(mark)}", *map(str, job_ids)))


def squeue_named(name: str, user: str, mark: str) -> Command:
    """The user's jobs of this name that the queue still has."""
    return command("squeue", *_ANY_STATE, f"--name={name}", f"--user={user}", f"--Format={_marked(mark)}")


def squeue_live(users: Collection[str], mark: str) -> Command:
    """The live jobs of these users. One that is not known there is left out."""
    return command(
        "squeue",
        "--noheader",
        "--all",
        "--states=PENDING,RUNNING,SUSPENDED",
        f"--user={','.join(users)}",
        f"--Format={_marked(mark)}",
    )


def _marked(mark: str) -> str:
    return ",".join(f"{field}:{mark}" for field in _SQUEUE_FIELDS)


def parse_squeue(stdout: str, mark: str) -> list[SeenJob]:
    return [_seen(row) for row in rows(stdout, mark, len(_SQUEUE_FIELDS))]


def sacct(job_ids: Sequence[int], days: int, mark: str) -> Command:
    """These jobs, each in its newest life, if they lived in the last days; unknown ids are left out."""
    ids = f"--jobs={','.join(map(str, job_ids))}"
    return command("sacct", *_sacct_form(mark), ids, f"--starttime=now-{days}days")


def sacct_named(name: str, user: str, days: int, mark: str) -> Command:
    """The user's jobs of this name of the last days, without those that never became eligible."""
    return command("sacct", *_sacct_form(mark), f"--name={name}", f"--user={user}", f"--starttime=now-{days}days")


def _sacct_form(mark: str) -> tuple[str, ...]:
    return (
        "--noheader",
        "--allocations",
        "--allusers",
        "--parsable",
        f"--delimiter={mark}",
        f"--format={','.join(_SACCT_FIELDS)}",
    )


def parse_sacct(stdout: str, mark: str) -> list[SeenJob]:
    return [_seen(row) for row in rows(stdout, mark, len(_SACCT_FIELDS))]


def scancel(job_id: int) -> Command:
    """End a job; without a signal, so that it ends CANCELLED and not FAILED."""
    return command("scancel", str(job_id))


def scancel_batch(job_id: int) -> Command:
    """SIGTERM to the batch script alone: what it runs keeps its container's file system until it is told to end."""
    return command("scancel", "--batch", "--signal=TERM", str(job_id))


def scontrol_config() -> Command:
    """The controller's configuration; fails if the controller does not answer."""
    return command("scontrol", "show", "config")


def parse_config(stdout: str) -> dict[str, str]:
    """`ClusterName`, `SLURM_VERSION` and all the other keys."""
    pairs = (line.partition("=") for line in stdout.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def rows(stdout: str, mark: str, width: int) -> Iterable[list[str]]:
    """Rows of so many fields, each field ended by the mark. Unreadable."""
    *fields, rest = stdout.split(mark)
    if rest.strip() or len(fields) % width:
        raise Unreadable(f"{len(fields)} fields in rows of {width}, then {rest.strip()[:80]!r}")
    for start in range(0, len(fields), width):
        row = fields[start : start + width]
        row[0] = row[0].strip()
        yield row


def _seen(row: Sequence[str]) -> SeenJob:
    job_id, name, user, state_words, reason, nodes, comment, restarts, code, submitted, started, ended, limit = row
    if not job_id.isdecimal():
        raise Unreadable(f"{job_id[:80]!r} instead of a job id")
    state, flags = states.parse(state_words)
    exit_code, signal = _exit(code) if state.ended else (None, None)
    return SeenJob(
        job_id=int(job_id),
        name=name,
        user=user,
        state=state,
        flags=flags,
        reason=text(reason),
        nodes=text(nodes),
        exit_code=exit_code,
        signal=signal,
        comment=text(comment),
        restarts=times.number(restarts) or 0,
        submit_time=times.moment(submitted),
        start_time=times.moment(started),
        end_time=times.moment(ended),
        time_limit=times.minutes(limit),
    )


def _exit(text: str) -> tuple[int | None, int | None]:
    """`3:0` is exit code 3, `0:15` is signal 15."""
    found = re.fullmatch(r"(\d+):(\d+)", text.strip())
    if found is None:
        return None, None
    return (None, int(found[2])) if int(found[2]) else (int(found[1]), None)


def text(value: str) -> str:
    """Empty where Slurm prints one of its words for nothing."""
    return "" if value in _EMPTY else value


def pending() -> Command:
    """Every pending job's id, partitions and reason, those that come first first: 28 bytes a job."""
    return command("squeue", "--noheader", "--all", "--states=PENDING", "--sort=-p,i", "--format=%A %P %r")


@dataclass(frozen=True)
class Place:
    """The place of a pending job among those of its (first) partition, 1 is next; and why it waits."""

    position: int
    reason: str


def parse_pending(stdout: str) -> dict[int, Place]:
    """By job id. An array counts as one job."""
    places: dict[int, Place] = {}
    ahead: dict[str, int] = {}
    for line in stdout.splitlines():
        number, _, rest = line.strip().partition(" ")
        partitions, _, reason = rest.partition(" ")
        if not number.isdecimal() or not partitions:
            raise Unreadable(f"squeue printed {line!r} for a pending job")
        names = partitions.split(",")
        for name in names:
            ahead[name] = ahead.get(name, 0) + 1
        places.setdefault(int(number), Place(ahead[names[0]], reason.strip()))
    return places


def add_association(user: str, account: str, cluster: str, qos: Sequence[str]) -> Command:
    """Let a user run under an account; one who is new to accounting gets it as the default."""
    more = (f"qos={','.join(qos)}",) if qos else ()
    return command("sacctmgr", "--immediate", "add", "user", user, f"account={account}", f"cluster={cluster}", *more)


def allow_qos(user: str, account: str, cluster: str, qos: Sequence[str]) -> Command:
    """Let a user who may run under an account already do so with these QOS, too."""
    where = f"name={user}", f"account={account}", f"cluster={cluster}"
    return command("sacctmgr", "--immediate", "modify", "user", "where", *where, "set", f"qos+={','.join(qos)}")


def remove_associations(user: str, accounts: Sequence[str], cluster: str) -> Command:
    """Those with these accounts; all of them on the cluster if none is named."""
    where = f"name={user}", f"cluster={cluster}", *((f"account={','.join(accounts)}",) if accounts else ())
    return command("sacctmgr", "--immediate", "remove", "user", "where", *where)


def default_account(user: str, account: str, cluster: str) -> Command:
    """Slurm takes nobody out of the default account, so it must be another first."""
    where = f"name={user}", f"cluster={cluster}"
    return command("sacctmgr", "--immediate", "modify", "user", "where", *where, "set", f"defaultaccount={account}")


def associations(user: str) -> Command:
    """What accounting lets the user run with, on all clusters of the database."""
    form = "format=Cluster,Account,Partition,QOS"
    return command("sacctmgr", "--noheader", "--parsable2", "--readonly", "show", "associations", f"user={user}", form)


def parse_associations(stdout: str) -> list[Association]:
    found = []
    for line in filter(None, stdout.splitlines()):
        cells = line.split("|")
        if len(cells) != 4:  # noqa: PLR2004  as many as were asked for
            raise Unreadable(f"sacctmgr printed {line[:80]!r} for an association")
        cluster, account, partition, qos = cells
        names = tuple(filter(None, qos.split(",")))
        found.append(Association(cluster=cluster, account=account, partition=partition, qos=names))
    return found


def clock() -> Command:
    """The time there, in epoch seconds."""
    return command("date", "+%s.%N")


def parse_clock(stdout: str) -> datetime:
    try:
        return datetime.fromtimestamp(float(stdout), UTC)
    except ValueError as error:
        raise Unreadable(f"date printed {stdout[:80]!r}") from error


def sdiag() -> Command:
    """How busy slurmctld is."""
    return command("sdiag")


def parse_sdiag(stdout: str) -> Load:
    counts = dict(re.findall(r"^([A-Z][\w ]+):\s+(\d+)$", stdout, re.MULTILINE))
    _, _, by_user = stdout.partition("statistics by user\n")
    calls = re.findall(r"^\s+(\S+)\s+\(\s*\d+\)\s+count:(\d+)", by_user.partition("\n\n")[0], re.MULTILINE)
    try:
        return Load(
            threads=int(counts["Server thread count"]),
            agent_queue=int(counts["Agent queue size"]),
            dbd_queue=int(counts["DBD Agent queue size"]),
            calls={user: int(count) for user, count in calls},
        )
    except KeyError as error:
        raise Unreadable(f"sdiag does not print {error}") from error
