"""The way of a job: prepare, start, wait until ready, announce, serve, end; and what Slurm is told of the end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import traceback
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from . import certificate, container, errors, image, inside, limits
from .activity import Activity
from .announce import Announcer, advertised, endpoint, word
from .control import Answer, ControlChannel
from .credentials import Credentials
from .deadline import Deadline
from .launch import Launch
from .places import Places, sweep
from .probe import Prober
from .processes import Payload, adopt_orphans, usage
from .relay import Relay
from .terminal import Terminal
from .tunnel import Tunnel
from .waiting import first

if TYPE_CHECKING:
    from .dial import Target
    from .edge import Edge, Handler
    from .journal import Journal
    from .watchdog import Watchdog

_STOPS = (signal.SIGTERM, signal.SIGINT)
_FORWARDED = ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGWINCH", "SIGALRM", "SIGURG")
_LAST_WORDS_SECONDS = 20.0
#: That a program in a terminal has ended is told at once, or when nothing more of what it left behind writes.
_TOLD_WITHIN = 2.0
_RACE_SECONDS = 0.5
#: A job that ends, or is ready, within so many seconds costs the controller no word about its terminal.
_RUNNING_SECONDS = 2.0

End = Tuple[str, int]  # the reason and the exit code


class Job:
    """One run of one spec. `run` gives the exit code."""

    def __init__(self, spec: Mapping[str, Any], places: Places, journal: Journal, watchdog: Watchdog) -> None:
        self._spec = spec
        self._places = places
        self._say = journal.say
        self._watchdog = watchdog
        self._payload = Payload([watchdog.pid])
        self._credentials = Credentials(spec["secrets"])
        self._deadline = Deadline(os.environ, self._payload.tool)
        self._announcer = Announcer(
            self._payload.tool, self._say, os.environ.get("SLURM_JOB_ID", ""), spec["comment_field"]
        )
        self._word = word(spec)
        self._relay: Optional[Relay] = None
        self._launch: Optional[Launch] = None
        self._activity: Optional[Activity] = None
        self._fingerprint = ""
        self._stop = asyncio.Event()
        self._terminals: List[Terminal] = []
        self._hurry = asyncio.Event()
        self._stop_reason = "stopped"
        self._stop_time = 0.0
        self._started = time.monotonic()
        self._phase = "starting"

    async def run(self) -> int:
        """Do everything; the exit code of the job."""
        self._watch_signals()
        if not adopt_orphans():
            self._say("orphans of the program cannot be adopted here: they are left to Slurm")
        limits.raise_file_limit()
        try:
            reason, code = await self._work()
        except errors.JobEnds as end:
            self._say(str(end))
            reason, code = end.reason, end.code
        except Exception as error:  # noqa: BLE001  # the job's end is told all the same
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._say(f"the agent failed: {type(error).__name__}: {error} ({where.name}, line {where.lineno})")
            reason, code = "agent_error", errors.AGENT_ERROR
        try:
            await self._clean_up(reason, code)
        finally:
            self._places.remove_runtime()
        self._watchdog.dismiss()
        return code

    async def _work(self) -> End:
        spec = self._spec
        for path in sweep(os.path.dirname(self._places.runtime)):
            self._say(f"removed {path}, left by a job that was killed")
        if int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0:
            self._announcer.announce(f"{self._word} starting")  # the comment is still the one of the run before
        await image.require(spec["container"])
        await self._collect_secrets()
        if self._stop.is_set():
            return self._stop_reason, self._stopped_code(errors.TERMINATED)
        if spec["kind"] == "batch":
            return await self._run_batch()
        return await self._run_service()

    # Before the start.

    async def _collect_secrets(self) -> None:
        credentials = self._credentials
        try:
            credentials.take_file(self._places.secrets, keep=self._spec["requeue"])
        except ValueError as error:
            raise errors.JobEnds("start_failed", errors.START_FAILED, str(error)) from None
        if not credentials.missing:
            return
        self._phase = "secrets"
        self._say(f"waiting for secrets: {', '.join(credentials.missing)}")
        relay = await self._open_relay()
        self._announcer.announce(f"{self._word} secrets {self._where(relay)}")
        if await first(credentials.wait(), self._stop.wait(), within=self._spec["secrets_timeout"]) is None:
            raise errors.JobEnds(
                "start_failed",
                errors.START_FAILED,
                f"these secrets did not come within {self._spec['secrets_timeout']:.0f} s: "
                f"{', '.join(credentials.missing)}",
            )

    async def _open_relay(self) -> Relay:
        if self._relay is None:
            if not self._spec["client_ca"]:
                raise errors.JobEnds("start_failed", errors.START_FAILED, "the job spec has no client_ca")
            name = f"sluice-{self._spec['session']}-{self._spec['attempt']}"
            cert, key = await certificate.make(self._payload.tool, self._places.runtime, name)
            context = certificate.server_context(cert, key, self._spec["client_ca"])
            self._fingerprint = certificate.fingerprint(cert)
            handlers: Dict[str, Callable[[Edge], Handler]] = {
                certificate.CONTROL: self._control,
                certificate.TERMINAL: self._terminal,
                certificate.FORWARD: self._tunnel,
            }
            self._relay = Relay(context, handlers, self._say, limit=limits.connections())
            await self._relay.listen()
        return self._relay

    async def _open_relay_if_possible(self) -> Optional[Relay]:
        """A batch program runs without a terminal, too."""
        if not self._spec["client_ca"]:
            return None
        try:
            return await self._open_relay()
        except (errors.JobEnds, OSError) as error:
            self._say(f"no terminals: {error}")
            return None

    def _where(self, relay: Relay) -> str:
        """`tcp=host:port sha256=fingerprint`, as it is announced."""
        return f"tcp={endpoint(advertised(os.environ), relay.port)} sha256={self._fingerprint}"

    # The two kinds.

    async def _run_batch(self) -> End:
        relay = await self._open_relay_if_possible()
        launch = self._start({})
        telling = self._tell_running(relay)
        try:
            self._phase = "running"
            if not await self._until_stop():
                code = errors.exit_code(self._payload.returncode or 0)
                self._say(f"the program ended with exit code {code}")
                return "finished", code
            self._phase = "draining"
            if self._payload.running:
                await self._end_payload(launch)
            return self._stop_reason, self._stopped_code(errors.exit_code(self._payload.returncode or 0))
        finally:
            telling.cancel()
            launch.forget()

    def _tell_running(self, relay: Optional[Relay]) -> asyncio.TimerHandle:
        """Announce soon where terminals are to be had."""

        def tell() -> None:
            try:
                where = self._where(relay) if relay is not None else ""
            except OSError as error:
                self._say(f"no terminals: {error}")
                return
            if where:
                self._announcer.announce(f"{self._word} running {where}")

        return asyncio.get_running_loop().call_later(_RUNNING_SECONDS, tell)

    async def _run_service(self) -> End:
        relay = await self._open_relay()
        where = self._where(relay)
        by_port = self._spec["service"]["listen"] == "port"
        target: Target = limits.free_port("127.0.0.1") if by_port else self._places.socket
        own = {"SLUICE_PORT": str(target)} if by_port else {"SLUICE_SOCKET": container.SOCKET}
        launch = self._start({**own, "SLUICE_PREFIX": self._spec["service"]["prefix"]})
        telling = self._tell_running(relay)
        try:
            if await self._until_ready(target):
                telling.cancel()
                launch.forget()
                relay.target = target
                self._phase = "ready"
                self._say(f"ready after {time.monotonic() - self._started:.1f} s")
                self._announcer.announce(f"{self._word} ready {where}")
                self._activity = Activity(self._spec["service"], target, self._payload.tool, self._say)
                watching = asyncio.ensure_future(self._activity.run())
                try:
                    if not await self._until_stop():
                        raise self._service_ended("service_exited", "by itself")
                finally:
                    watching.cancel()
            await self._drain(relay)
            if self._payload.running:
                await self._end_payload(launch)
            return self._stop_reason, self._stopped_code(0)
        finally:
            telling.cancel()
            launch.forget()

    def _start(self, own: Mapping[str, str]) -> Launch:
        spec = self._spec
        launch = Launch(spec, self._places, {**spec["container"]["env"], **self._credentials.hand_over()}, own)
        output = os.open(self._places.service_log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._say(f"starting {spec['container']['image']}")
            self._watchdog.tell(launch.start(self._payload, output))
            self._launch = launch
        except OSError as error:
            launch.forget()
            raise errors.JobEnds("start_failed", errors.START_FAILED, f"cannot start: {error}") from None
        finally:
            os.close(output)
        return launch

    async def _until_ready(self, target: Target) -> bool:
        """Probe until the service is ready; False if a stop comes first."""
        service = self._spec["service"]
        prober = Prober(service, target, self._say)
        index = await first(
            self._payload.wait(), self._stop.wait(), prober.until_ready(), within=service["start_timeout"]
        )
        if index == 0 and not await self._stop_follows():
            raise self._service_ended("start_failed", "before it was ready")
        if index is None:
            raise errors.JobEnds(
                "probe_timeout",
                errors.PROBE_TIMEOUT,
                f"the service was not ready within {service['start_timeout']:.0f} s; last answer: {prober.last_answer}",
            )
        return not self._stop.is_set()

    async def _until_stop(self) -> bool:
        """Until a stop is asked for, or the time limit is near; False if the program ends by itself."""
        before = self._spec["stop"]["before_limit"]
        if self._deadline.end is None:
            await self._asked_for_limit()
        while True:
            left = self._deadline.wait(before)
            index = await first(self._payload.wait(), self._stop.wait(), within=left)
            if index == 0 and not await self._stop_follows():
                return False
            if index is not None:
                return True
            if await self._asked_for_limit():
                left = self._deadline.wait(before)
                if left is None or left <= 0:
                    self._ask_stop("time_limit", "the time limit is near")
                    return True

    async def _asked_for_limit(self) -> bool:
        """Ask Slurm for the time limit. A controller may answer late: a stop, or the program's end, waits for none."""
        return await first(self._payload.wait(), self._stop.wait(), self._deadline.ask()) == 2  # noqa: PLR2004

    # The end.

    async def _drain(self, relay: Relay) -> None:
        stop = self._spec["stop"]
        self._phase = "draining"
        relay.drain()
        if relay.in_flight and self._payload.running:
            grace = min(stop["grace"], stop["kill_after"] / 2)
            self._say(f"draining: {relay.in_flight} in flight, up to {grace:.0f} s")
            await first(relay.drained(grace), self._hurry.wait(), self._payload.wait())
            if relay.in_flight:
                self._say(f"{relay.in_flight} in flight are cut off")

    async def _end_payload(self, launch: Launch) -> None:
        """SIGTERM, SIGTERM again (some ignore one while they start), then no more mercy."""
        left = max(0.0, self._stop_time + self._kill_by() - time.monotonic())
        for part in (0.4, 0.6):
            launch.signal(self._payload, signal.SIGTERM)
            if await first(self._payload.wait(), within=left * part) is not None:
                return
        self._say("the program does not end on SIGTERM: it is killed")

    def _kill_by(self) -> float:
        """Seconds after the request to stop when SIGKILL is due: early enough to say so to Slurm."""
        after = float(self._spec["stop"]["kill_after"])
        if self._stop_reason == "time_limit" and self._deadline.end is not None:
            # A program that saves its state has all the time that is left.
            stop_ago = time.monotonic() - self._stop_time
            after = max(after, self._deadline.end - time.time() + stop_ago)
        return after - min(5.0, after / 4)

    async def _clean_up(self, reason: str, code: int) -> None:
        stopping = self._stop.is_set()
        await self._end_terminals()
        if self._relay is not None:
            self._relay.close()
        killed = await self._payload.end_rest(0.5 if stopping else 2.0)
        if killed:
            self._say(f"killed {killed} processes that did not end")
        self._say(f"ended: {reason}, exit code {code}")
        if not stopping:  # a job that is told to end may be on its way back to the queue, and will need them again
            self._credentials.forget_file(self._places.secrets)
        self._announcer.announce(f"{self._word} ended reason={reason} code={code}")
        patience = _LAST_WORDS_SECONDS
        if stopping:
            patience = max(2.0, self._stop_time + self._spec["stop"]["kill_after"] - time.monotonic())
        if not await self._announcer.settle(patience):
            self._say("Slurm could not be told of the end")
        await self._announcer.close()

    def _service_ended(self, reason: str, when: str) -> errors.JobEnds:
        code = errors.exit_code(self._payload.returncode or 0)
        return errors.JobEnds(
            reason,
            code or errors.SERVICE_ENDED,
            f"the service ended {when} with exit code {code}; its last words are in {self._places.service_log}",
        )

    def _stopped_code(self, payload: int) -> int:
        if self._stop_reason == "time_limit":
            return payload or errors.TIME_LIMIT
        return payload if self._spec["kind"] == "batch" else 0

    async def _stop_follows(self) -> bool:
        """The program ended: was it told to? Slurm signals it and us together, and it may be the faster one."""
        return await first(self._stop.wait(), within=_RACE_SECONDS) is not None

    # Requests from outside.

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _STOPS:
            loop.add_signal_handler(number, self._on_stop_signal, number)
        for name in _FORWARDED:
            number = getattr(signal, name)
            loop.add_signal_handler(number, self._forward, number)

    def _forward(self, number: int) -> None:
        if self._launch is not None:
            self._launch.signal(self._payload, number)

    def _on_stop_signal(self, number: int) -> None:
        reason = "time_limit" if self._deadline.reached else "stopped"
        self._ask_stop(reason, f"signal {signal.Signals(number).name}")

    def _ask_stop(self, reason: str, why: str) -> None:
        if self._stop.is_set():
            self._say(f"stopping at once ({why})")
            self._hurry.set()
            return
        self._say(f"stopping ({why})")
        self._stop_reason = reason
        self._stop_time = time.monotonic()
        self._stop.set()

    def _control(self, edge: Edge) -> ControlChannel:
        return ControlChannel(edge, self._answer)

    def _terminal(self, edge: Edge) -> Terminal:
        terminal = Terminal(edge, self._enter, self._payload, self._touch, self._ends)
        self._terminals = [*(one for one in self._terminals if not one.over.is_set()), terminal]
        return terminal

    async def _end_terminals(self) -> None:
        """Who is inside learns how it ended, before the connections do."""
        inside = [one for one in self._terminals if not one.over.is_set()]
        for one in inside:
            one.end()
        over = [asyncio.ensure_future(one.over.wait()) for one in inside]
        if over:
            _, left = await asyncio.wait(over, timeout=_TOLD_WITHIN)
            for task in left:
                task.cancel()

    def _tunnel(self, edge: Edge) -> Tunnel:
        return Tunnel(edge, self._touch)

    def _ends(self) -> bool:
        return self._stop.is_set() or not self._payload.running

    def _touch(self) -> None:
        if self._relay is not None:
            self._relay.touch()

    def _enter(self, argv: Sequence[str], environment: Mapping[str, str]) -> inside.Entry:
        """How one more program is started beside the one that runs. ValueError if none does."""
        launch = self._launch
        if launch is None or not self._payload.running:
            raise ValueError("no program runs in this job now")
        own = None if launch.launched else inside.join(self._payload.pid, argv, environment)
        return own or launch.one_more(argv, environment)

    def _answer(self, request: Dict[str, Any]) -> Answer:
        """One request of the gateway's on the control channel."""
        op = request["op"]
        if op == "status":
            return {"ok": True, **self._status(with_usage=bool(request.get("usage")))}
        if op == "stop":
            self._ask_stop("stopped", "as the gateway asked")
            return {"ok": True}
        if op == "secrets":
            try:
                self._credentials.add(request.get("values"))
            except ValueError as error:
                return {"ok": False, "error": str(error)}
            return {"ok": True, "missing": self._credentials.missing}
        return {"ok": False, "error": f"unknown op {op[:40]!r}; known: status, stop, secrets"}

    def _status(self, *, with_usage: bool = False) -> Dict[str, Any]:
        relay = self._relay
        status: Dict[str, Any] = {
            "phase": self._phase,
            "pid": os.getpid(),
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "in_flight": relay.in_flight if relay is not None else 0,
            "idle_seconds": round(relay.idle_seconds, 3) if relay is not None else 0.0,
            "requests": relay.requests if relay is not None else 0,
            "connections": len(relay.splices) if relay is not None else 0,
        }
        if self._activity is not None:
            status["quiet"] = self._activity.quiet()
        if with_usage:
            status["usage"] = usage(self._payload.alive())
        return status
