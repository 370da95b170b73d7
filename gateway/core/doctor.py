"""`sluice doctor`: look at a configured cluster from every side at once; what is seen is judged in model/doctor.py."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from gateway.core import doctor_job
from gateway.core.ports import Clock, Files, Inspection, Net, Scheduler, SchedulerInfo, Shell, Statistics
from gateway.errors import Forbidden, NotFound, SchedulerUnavailable, SluiceError, Unavailable
from gateway.model import doctor
from gateway.model.doctor import Finding, NodePath, ok, problem, skipped, warning
from gateway.model.inventory import Inventory, Node
from gateway.model.plan import PlannedLifecycle
from gateway.settings import ClusterSettings

T = TypeVar("T")

PATIENCE: Final = 20.0
NODES_TRIED: Final = 4
_SHELL_SECONDS: Final = 15.0
_SLURMD_PORT: Final = 6818


@dataclass(frozen=True, kw_only=True)
class Ways:
    """A cluster's ways in. `shell` is the login node, or this machine; None where no commands are run."""

    settings: ClusterSettings
    poll_seconds: float
    scheduler: Scheduler
    files: Files
    shell: Shell | None
    build_shell: Shell | None
    inspections: Sequence[Inspection]
    net: Net
    clock: Clock


class _CannotTell(Exception):
    """A check whose ground is missing: another check says what is wrong there."""


class _Once:
    """Questions that several checks have: each is asked once, and its failure is everybody's."""

    def __init__(self) -> None:
        self._asked: dict[str, asyncio.Task[Any]] = {}

    async def ask(self, name: str, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if name not in self._asked:
            self._asked[name] = asyncio.create_task(question())
        task: asyncio.Task[T] = self._asked[name]
        return await asyncio.shield(task)  # who loses patience must not end it for the others

    async def close(self) -> None:
        for task in self._asked.values():
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)


async def examine(ways: Ways, *, mark: str, job: bool = False, patience: float = PATIENCE) -> list[Finding]:
    """Every check, side by side, each with its own `patience` (seconds): none hides another.

    `mark` is a word of this run's own for the names of what it writes. With `job` a tiny job is run.
    """
    examination = _Examination(ways, mark, patience / 3)
    checks: dict[str, Callable[[], Awaitable[Sequence[Finding]]]] = {
        name: _one(check) for name, check in examination.checks().items()
    }
    limits = dict.fromkeys(checks, patience)
    if job:
        checks["job"] = examination.job
        limits["job"] = doctor_job.PATIENCE + patience
    try:
        found = await asyncio.gather(*(_guarded(name, check, limits[name]) for name, check in checks.items()))
    finally:
        await examination.close()
    findings = [finding for several in found for finding in several]
    return findings if job else [*findings, skipped("programs", "Only a job on a node can see them.", "Add --job.")]


def _one(check: Callable[[], Awaitable[Finding]]) -> Callable[[], Awaitable[Sequence[Finding]]]:
    async def several() -> Sequence[Finding]:
        return [await check()]

    return several


async def _guarded(name: str, check: Callable[[], Awaitable[Sequence[Finding]]], patience: float) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(patience):
            return await check()
    except _CannotTell as error:
        return [skipped(name, str(error))]
    except TimeoutError:
        return [
            problem(name, f"No answer within {patience:g} s.", "Look at the load of that machine and the way to it.")
        ]
    except SluiceError as error:
        return [problem(name, _sentence(error.message), error.hint)]
    except Exception as error:  # noqa: BLE001  one check that fails in a way nobody thought of must not hide the others
        return [problem(name, f"The check itself failed: {type(error).__name__}: {error}.", "Report this, please.")]


class _Examination:
    def __init__(self, ways: Ways, mark: str, each: float) -> None:
        """`each` (seconds): so long one of several ways may take, that the others get their turn."""
        self._ways, self._mark, self._each, self._once = ways, mark, each, _Once()
        self._user = ways.settings.user

    async def close(self) -> None:
        await self._once.close()

    def checks(self) -> Mapping[str, Callable[[], Awaitable[Finding]]]:
        """In the order in which they are told."""
        return {
            "login": self._login,
            "slurm": self._slurm,
            "versions": self._versions,
            "identity": self._identity,
            "clock": self._clock,
            "load": self._load,
            "configuration": self._configuration,
            "job age": self._job_age,
            "accounting": self._accounting,
            "association": self._association,
            "partition": self._partition,
            "gpus": self._gpus,
            "kill wait": self._kill_wait,
            "session folder": self._session_folder,
            "image folder": self._image_folder,
            "build host": self._build_host,
            "node path": self._node_path,
        }

    # What several checks ask

    async def _id(self) -> tuple[str, int]:
        if self._ways.shell is None:
            raise _CannotTell("No login node is configured (ssh_host): commands are not run.")
        done = await self._ways.shell.run(["id"], user=self._user, timeout=_SHELL_SECONDS)
        found = re.search(r"uid=(\d+)\(([^)]*)\)", done.stdout)
        if done.returncode != 0 or found is None:
            raise Unavailable(f"`id` ended with {done.returncode} there: {(done.stderr or done.stdout).strip()[:200]}")
        return found[2], int(found[1])

    async def _let_in(self) -> tuple[str, int]:
        """Who we are on the login node. Nobody knocks again if we were not let in: sshd punishes that."""
        try:
            return await self._once.ask("id", self._id)
        except SluiceError as error:
            raise _CannotTell("Not looked at: commands cannot be run there, see `login`.") from error

    async def _info(self) -> SchedulerInfo:
        if self._ways.settings.backend == "cli":
            await self._let_in()
        return await self._once.ask("info", self._ways.scheduler.info)

    async def _answers(self) -> SchedulerInfo:
        try:
            return await self._info()
        except SluiceError as error:
            raise _CannotTell("Not looked at: Slurm does not answer, see `slurm`.") from error

    async def _inventory(self) -> Inventory:
        await self._answers()
        try:
            return await self._once.ask("inventory", self._ways.scheduler.inventory)
        except SluiceError as error:
            raise _CannotTell(f"Slurm does not list its nodes: {_sentence(error.message)}") from error

    async def _config(self) -> Mapping[str, str]:
        try:
            return (await self._told("configuration", lambda source: source.configuration()))[1]
        except SchedulerUnavailable as error:
            raise _CannotTell("Not looked at: Slurm's configuration is not seen, see `configuration`.") from error

    async def _associations(self) -> Sequence[doctor.Association]:
        return (await self._told("associations", lambda source: source.associations(self._user)))[1]

    async def _told(self, what: str, ask: Callable[[Inspection], Coroutine[Any, Any, T]]) -> tuple[str, T]:
        """The first answer that any way gives, and whose it is."""

        async def question() -> tuple[str, T]:
            said = []
            for source in await self._sources():
                try:
                    return str(source), await self._soon(ask(source))
                except SluiceError as error:
                    said.append(f"{source}: {error.message}")
            raise SchedulerUnavailable(f"no way tells it ({'; '.join(said) or 'none is left, see `login`'})")

        return await self._once.ask(what, question)

    async def _soon(self, answer: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(self._each):
                return await answer
        except TimeoutError as error:
            raise SchedulerUnavailable(f"no answer within {self._each:.0f} s") from error

    async def _sources(self) -> Sequence[Inspection]:
        try:
            await self._let_in()
        except _CannotTell:
            return [source for source in self._ways.inspections if not source.by_shell]
        return self._ways.inspections

    # The checks

    async def _login(self) -> Finding:
        name, _ = await self._once.ask("id", self._id)
        host = self._ways.settings.ssh_host
        if host is None:
            return ok("login", f"Commands run on this machine, as {name}.")
        return ok(
            "login", f"{host}:{self._ways.settings.ssh_port} is reached by ssh, and its host key is the known one."
        )

    async def _slurm(self) -> Finding:
        info = await self._info()
        return ok("slurm", f"slurmctld of {info.cluster} answers, asked as {self._user}.")

    async def _versions(self) -> Finding:
        info = await self._answers()
        return doctor.versions(info.version, info.backend)

    async def _identity(self) -> Finding:
        if self._user == "root":
            return doctor.identity(self._user, self._user, 0, "the cluster")
        name, uid = await self._let_in()
        return doctor.identity(self._user, name, uid, self._ways.settings.ssh_host or "this machine")

    async def _clock(self) -> Finding:
        skews: dict[str, float] = {}
        said = []
        for source in await self._sources():
            before = self._ways.clock()
            try:
                there = await self._soon(source.now())
            except SluiceError as error:
                said.append(f"{source}: {error.message}")
                continue
            after = self._ways.clock()
            skews[str(source)] = (there - (before + (after - before) / 2)).total_seconds()
        if not skews:
            raise _CannotTell(
                f"No clock could be read ({'; '.join(said) or 'see `login`'}); a wrong one may be the reason."
            )
        return doctor.clock(skews)

    async def _load(self) -> Finding:
        said = []
        for source in await self._sources():
            if isinstance(source, Statistics):
                try:
                    return doctor.load(await self._soon(source.load()), self._user)
                except SluiceError as error:
                    said.append(f"{source}: {error.message}")
        raise _CannotTell(f"No way tells slurmctld's statistics ({'; '.join(said) or 'none is there'}).")

    async def _configuration(self) -> Finding:
        try:
            place, config = await self._told("configuration", lambda source: source.configuration())
        except SchedulerUnavailable as error:
            return skipped(
                "configuration",
                _sentence(error.message),
                "Slurm tells it by scontrol on a login node (ssh_host), and by slurmrestd from 26.05 on.",
            )
        return ok("configuration", f"Told by {place}: {len(config)} values.")

    async def _job_age(self) -> Finding:
        return doctor.job_age(await self._config(), self._ways.poll_seconds)

    async def _accounting(self) -> Finding:
        finding = doctor.accounting(await self._config())
        if finding.verdict is doctor.Verdict.OK:
            try:
                await self._associations()
            except SchedulerUnavailable as error:
                advice = "Is slurmdbd running on AccountingStorageHost, and is its database?"
                return problem("accounting", f"slurmdbd does not answer: {_sentence(error.message)}", advice)
        return finding

    async def _association(self) -> Finding:
        settings = self._ways.settings
        try:
            rows = await self._associations()
        except SluiceError as error:
            raise _CannotTell("Not looked at: accounting does not answer, see `accounting`.") from error
        return doctor.association(
            rows,
            await self._config(),
            user=self._user,
            account=settings.account,
            partition=settings.default_partition,
            qos=settings.qos,
        )

    async def _partition(self) -> Finding:
        return doctor.partition(await self._inventory(), self._ways.settings.default_partition)

    async def _gpus(self) -> Finding:
        return doctor.gpus(await self._config(), await self._inventory())

    async def _kill_wait(self) -> Finding:
        return doctor.kill_wait(await self._config(), PlannedLifecycle().kill_after)

    async def _session_folder(self) -> Finding:
        await self._files_reached()
        folder = self._ways.settings.session_root
        try:
            await self._write(folder)
        except (Forbidden, NotFound, Unavailable) as error:
            return problem(
                "session folder",
                f"{self._user} cannot write in {folder}: {error.message}.",
                error.hint or "Give the user that folder, or set another session_root.",
            )
        return ok("session folder", f"{self._user} wrote, read and removed a file in {folder}.")

    async def _image_folder(self) -> Finding:
        await self._files_reached()
        folder = self._ways.settings.image_dir
        try:
            about = await self._ways.files.stat(self._user, folder)
            if about is None:
                return warning("image folder", f"There is no {folder} yet.", "`sluice image build` makes it.")
            images = [entry for entry in await self._ways.files.list(self._user, folder) if entry.path.endswith(".sif")]
        except (Forbidden, NotFound) as error:
            return problem(
                "image folder", f"{_sentence(error.message)}", f"Let {self._user} read it, or set image_dir."
            )
        try:
            await self._write(folder)
        except (Forbidden, NotFound, Unavailable) as error:
            return warning(
                "image folder",
                f"{folder} holds {len(images)} images, and {self._user} cannot write there: {error.message}.",
                "Images must be built or copied there by somebody who may.",
            )
        return ok("image folder", f"{folder} holds {len(images)} images; {self._user} may add more.")

    async def _files_reached(self) -> None:
        if self._ways.settings.files == "sftp":
            await self._let_in()

    async def _write(self, folder: str) -> None:
        path = f"{folder.rstrip('/')}/.sluice-doctor-{self._mark}"
        files, text = self._ways.files, self._mark.encode()
        try:
            await files.write(self._user, path, text)
            if await files.read(self._user, path) != text:
                raise Unavailable(f"{path} does not hold what was written")
        finally:
            await files.remove(self._user, path)

    async def _build_host(self) -> Finding:
        shell, settings = self._ways.build_shell, self._ways.settings
        where = settings.build_host or settings.ssh_host or "this machine"
        if shell is None:
            raise _CannotTell("No host for image builds is configured (build_host).")
        if settings.build_host is None:
            await self._let_in()
        done = await shell.run(["apptainer", "--version"], user=self._user, timeout=_SHELL_SECONDS)
        if done.returncode != 0:
            return warning(
                "build host",
                f"There is no apptainer on {where}: {(done.stderr or done.stdout).strip()[:200]}",
                "Install it there, or set build_host; sessions can run without, images cannot be built.",
            )
        return ok("build host", f"{where}: {done.stdout.strip()}.")

    async def _node_path(self) -> Finding:
        inventory = await self._inventory()
        try:
            port = int(doctor.seconds((await self._config()).get("SlurmdPort")) or _SLURMD_PORT)
        except _CannotTell:
            port = _SLURMD_PORT
        nodes = [node for node in inventory.nodes if node.available][:NODES_TRIED]
        paths = await asyncio.gather(*(self._reach(node, port) for node in nodes))
        return doctor.node_path(
            paths, len(inventory.nodes), port, how=f"{self._ways.net.words} (path = {self._ways.settings.path})"
        )

    async def _reach(self, node: Node, port: int) -> NodePath:
        name = node.address or node.name
        address = await self._ways.net.resolve(name) or await self._resolve_there(name)
        if not address:
            return NodePath(node=node.name, address="", reached=None, words="its name is known neither here nor there")
        try:
            await self._ways.net.dial(address, port)
        except ConnectionRefusedError:
            pass  # the host itself answered
        except TimeoutError:
            return NodePath(node=node.name, address=address, reached=None, words="nothing comes back")
        except OSError as error:
            return NodePath(node=node.name, address=address, reached=False, words=error.strerror or str(error))
        return NodePath(node=node.name, address=address, reached=True)

    async def _resolve_there(self, name: str) -> str:
        """The gateway needs no names of nodes, agents announce addresses: the login node knows them."""
        if self._ways.shell is None:
            return ""
        try:
            await self._let_in()
            done = await self._ways.shell.run(["getent", "ahosts", name], user=self._user, timeout=_SHELL_SECONDS)
        except (SluiceError, _CannotTell):
            return ""
        return next(iter(done.stdout.split()), "")

    async def job(self) -> Sequence[Finding]:
        """The tiny job; not run where it could not be seen."""
        await self._files_reached()
        settings = self._ways.settings
        return await doctor_job.run(self._ways.scheduler, self._ways.files, self._ways.net, settings, self._mark)


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text + ("" if text.endswith((".", "!", "?")) else ".")
