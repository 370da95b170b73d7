"""Renders a plan into the job that Slurm is given: its options and its script."""

import json
import re
import shlex
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict

from gateway.data import folder
from gateway.errors import Invalid
from gateway.model.announcement import mark
from gateway.model.job import JobOptions, JobScript, job_name
from gateway.model.jobspec import Activity, Bind, Container, JobSpec, Probe, Service, Stop, TcpProbe
from gateway.model.plan import IdleRule, Plan
from gateway.model.resources import Resources
from gateway.render.bundle import agent_bundle

_WORD = re.compile(r"[A-Za-z0-9_/(\[][A-Za-z0-9_.,@+:&|()\[\]*/-]*")
_AMD = re.compile(r"mi\d", re.IGNORECASE)


class JobTarget(BaseModel):
    """Whose job it is and where it goes.

    `session_root` is the folder of session directories on the cluster, relative to the user's home unless absolute.
    `client_ca` is the PEM of the CA whose certificates the agent admits. `instance` is the name of this gateway among
    those that share the Slurm. `begin_at`: the job is not to start before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    session_id: str
    attempt: int = 1
    session_root: str = ".sluice/sessions"
    client_ca: str = ""
    comment_field: Literal["comment", "extra"] = "comment"
    instance: str = ""
    begin_at: datetime | None = None

    @property
    def mark(self) -> str:
        """What the field says before the agent speaks."""
        return mark(self.instance) if self.instance else ""


def render(plan: Plan, target: JobTarget) -> JobScript:
    """The job, ready to be sent. The same plan and target give the same bytes."""
    options = job_options(plan.resources, target, requeue=plan.lifecycle.requeue)
    spec = job_spec(plan, target)
    bundle = agent_bundle()
    text = (
        _templates()
        .get_template(f"{_template_name(plan)}.sh.j2")
        .render(
            directives=directives(options),
            plan=plan,
            target=target,
            directory=spec.directory,
            spec=json.dumps(spec.model_dump(mode="json"), indent=1),
            agent=bundle.text.rstrip("\n"),
            agent_sha256=bundle.sha256,
        )
    )
    return JobScript(options=options, text=text)


def job_options(resources: Resources, target: JobTarget, *, requeue: bool = False) -> JobOptions:
    """What Slurm is asked for: the one value behind `#SBATCH` lines and REST fields."""
    tasks = resources.tasks or resources.nodes
    return JobOptions(
        name=job_name(target.session_id, target.attempt),
        partition=resources.partition,
        account=resources.account,
        qos=resources.qos,
        time_limit=resources.time,
        begin_at=target.begin_at,
        nodes=resources.nodes,
        tasks=tasks,
        tasks_per_node=1 if resources.tasks is None and resources.nodes > 1 else None,
        cpus_per_task=resources.cpus or 1,
        memory=resources.memory,
        gres=resources.gpus.gres,
        constraint=resources.constraint,
        exclusive=resources.exclusive,
        requeue=requeue,
        comment=target.mark if target.comment_field == "comment" else "",
        extra=target.mark if target.comment_field == "extra" else "",
    )


def directives(options: JobOptions) -> list[str]:
    """The options as `sbatch` takes them. Invalid if a value could be read as anything but one value."""
    return [f"--{name}" if value is None else f"--{name}={_word(name, value)}" for name, value in options.arguments()]


def job_spec(plan: Plan, target: JobTarget) -> JobSpec:
    """What the agent of the job is told."""
    service = None
    if plan.service is not None:
        prefix = own_prefix(target.session_id) if plan.service.prefix == "keep" else ""
        service = Service(
            listen=plan.service.listen,
            probe=below(prefix, plan.service.probe),
            prefix=prefix,
            start_timeout=plan.service.start_timeout,
            activity=_activity(plan.lifecycle.idle),
        )
    return JobSpec(
        session=target.session_id,
        attempt=target.attempt,
        kind=plan.kind,
        directory=session_directory(target),
        container=Container(
            image=plan.image.path,
            sha256=plan.image.sha256,
            gpu=_gpu_vendor(plan.resources),
            binds=tuple(
                Bind(source=mount.source, target=mount.target, read_only=not mount.writable, below=mount.below)
                for mount in plan.mounts
            ),
            command=plan.command,
            script=plan.script,
            env=plan.env,
        ),
        launcher=_launcher(plan.resources),
        service=service,
        stop=Stop(
            grace=plan.lifecycle.grace,
            kill_after=plan.lifecycle.kill_after,
            before_limit=plan.lifecycle.before_limit,
        ),
        secrets=tuple(plan.secrets),
        client_ca=target.client_ca,
        comment_field=target.comment_field,
        gateway=target.instance,
        requeue=plan.lifecycle.requeue,
    )


def _activity(rules: Sequence[IdleRule]) -> Activity | None:
    """What the rules about idle services want to know."""
    kernels, uses = any(rule.kernels for rule in rules), [rule.gpu_below for rule in rules if rule.gpu_below]
    return Activity(kernels=kernels, gpu_below=min(uses, default=None)) if kernels or uses else None


def session_directory(target: JobTarget) -> str:
    """The session's folder on the cluster, relative to the user's home unless absolute."""
    return f"{target.session_root.removeprefix('~/').rstrip('/')}/{target.session_id}"


def own_prefix(session_id: str) -> str:
    """Where a service that keeps its prefix finds itself."""
    return f"/s/{session_id}"


def below(prefix: str, probe: Probe) -> Probe:
    """The probe of a service whose paths all begin with this."""
    return probe if isinstance(probe, TcpProbe) else probe.model_copy(update={"path": prefix + probe.path})


def _word(name: str, text: str) -> str:
    if not _WORD.fullmatch(text):
        raise Invalid(f"--{name}={text!r} cannot be given to Slurm", hint="Letters, digits and . , @ + : - _ only.")
    return text


def _gpu_vendor(resources: Resources) -> Literal["none", "nvidia", "amd"]:
    if not resources.gpus.count:
        return "none"
    return "amd" if _AMD.match(resources.gpus.type or "") else "nvidia"


def _launcher(resources: Resources) -> tuple[str, ...]:
    """What starts the program once a task. srun has not taken --cpus-per-task from the job since Slurm 22.05."""
    tasks = resources.tasks or resources.nodes
    if tasks == 1:
        return ()
    return (
        "srun",
        "--kill-on-bad-exit=1",
        f"--nodes={resources.nodes}",
        f"--ntasks={tasks}",
        f"--cpus-per-task={resources.cpus or 1}",
    )


def _template_name(plan: Plan) -> Literal["service", "batch", "multi-node"]:
    if _launcher(plan.resources):
        return "multi-node"
    return plan.kind


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(folder("sbatch_templates")),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 -- shell, not HTML; values pass the filter `sh` or travel as JSON
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sh"] = shlex.quote
    return environment
