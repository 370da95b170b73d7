"""slurmrestd's habits: versions, tokens, two answers, refusals inside a 200, and answers that do not come."""

import asyncio
import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from ulid import ULID

from gateway.errors import (
    Forbidden,
    SchedulerUnavailable,
    SubmitDeferred,
    SubmitRefused,
    SubmitUnknown,
)
from gateway.model.job import JobOptions, JobScript, JobState
from gateway.slurm import left, rest_parse
from gateway.slurm.rest import RestScheduler
from gateway.slurm.rest_http import RestClient
from gateway.slurm.tokens import Tokens

SCRIPT = JobScript(options=JobOptions(name="sluice-x-1"), text="#!/bin/sh\n")
READY = f"sluice/1 ready tcp=10.0.0.1:4000 sha256={'0' * 64}"


def states(**words: str) -> str:
    return json.dumps({"jobs": [{"job_id": i.strip("_"), "state": w.split()} for i, w in words.items()]})


def job(job_id: int, state: str, **fields: Any) -> str:
    row = {"job_id": job_id, "job_state": state.split(), "name": f"sluice-{job_id}-1", "user_name": "alice"}
    return json.dumps({"jobs": [{**row, **fields}]})


def errors(number: int, words: str = "words") -> str:
    return json.dumps({"errors": [{"error_number": number, "error": words, "description": "failed"}]})


# Recorded answers of every version


@pytest.mark.parametrize("version", ["v0.0.42", "v0.0.43", "v0.0.44"])
def test_jobs_of_every_version_read_the_same(version: str, read_recorded: Callable[[str], str]) -> None:
    rows = json.loads(read_recorded(f"rest-jobs-{version}.json"))["jobs"]
    done, cancelled, failed = (rest_parse.queue_job(row) for row in rows)
    assert (done.job_id, done.state, done.exit_code, done.signal) == (1, JobState.COMPLETED, 0, None)
    assert (cancelled.state, cancelled.exit_code, cancelled.signal) == (JobState.CANCELLED, None, 15)
    assert (failed.state, failed.exit_code) == (JobState.FAILED, 2)
    assert done.user == "alice"
    assert done.time_limit is not None
    assert done.submit_time is not None
    assert done.submit_time.year == 2026


def test_a_job_of_the_oldest_version(read_recorded: Callable[[str], str]) -> None:
    (row,) = json.loads(read_recorded("rest-job-v0.0.41.json"))["jobs"]
    (past,) = json.loads(read_recorded("restdb-job-v0.0.41.json"))["jobs"]
    for seen in (rest_parse.queue_job(row), rest_parse.accounting_job(past)):
        assert (seen.name, seen.user, seen.state) == ("sluice-x-1", "alice", JobState.FAILED)
        assert (seen.exit_code, seen.signal, seen.comment) == (3, None, "hello")
        assert seen.nodes in {"node1", "node2"}
        assert None not in {seen.submit_time, seen.start_time, seen.end_time, seen.time_limit}


@pytest.mark.parametrize("words", ["rest-no-such-version.txt", "rest-no-such-version-24.11.txt"])
async def test_a_version_that_went_away_is_replaced(
    scheduler: RestScheduler, player: Any, read_recorded: Callable[[str], str], words: str
) -> None:
    player.no_such_version = read_recorded(words)
    assert (await scheduler.info()).backend == "rest v0.0.44"
    player.versions.remove("v0.0.44")
    assert (await scheduler.info()).backend == "rest v0.0.43"


def test_a_running_job_as_recorded(read_recorded: Callable[[str], str]) -> None:
    seen = rest_parse.queue_job(json.loads(read_recorded("rest-job.json"))["jobs"][0])
    assert (seen.state, seen.nodes, seen.comment, seen.time_limit) == (JobState.RUNNING, "node1", "c1", 30)
    assert (seen.exit_code, seen.reason) == (None, "")
    assert seen.start_time == datetime(2026, 11, 21, 0, 49, 58, tzinfo=UTC)


def test_an_accounting_record(read_recorded: Callable[[str], str]) -> None:
    seen = rest_parse.accounting_job(json.loads(read_recorded("restdb-job.json"))["jobs"][0])
    assert (seen.job_id, seen.name, seen.state, seen.signal) == (8, "restjob", JobState.FAILED, 15)
    assert (seen.comment, seen.nodes, seen.time_limit) == ("c2", "node1", 20)


def test_inventory_as_recorded(read_recorded: Callable[[str], str]) -> None:
    found = rest_parse.inventory(
        json.loads(read_recorded("rest-partitions.json")), json.loads(read_recorded("rest-nodes.json"))
    )
    cpu, gpu = found.partitions
    assert (cpu.name, cpu.up, cpu.default, cpu.max_time, cpu.total_nodes) == ("cpu", True, True, 10080, 2)
    assert (gpu.default, gpu.default_time) == (False, None)
    assert [(g.type, g.total, g.used) for g in found.gpus()] == [("a100", 8, 0)]


@pytest.mark.parametrize(
    ("words", "available"),
    [
        (["IDLE"], True),
        (["MIXED", "PLANNED"], True),
        (["IDLE", "CLOUD", "POWERED_DOWN"], True),
        (["IDLE", "DRAIN"], False),
        (["DOWN", "NOT_RESPONDING"], False),
        (["IDLE", "MAINTENANCE"], False),
        ([], False),
    ],
)
def test_which_nodes_start_jobs(words: list[str], available: bool) -> None:
    assert rest_parse.node_available(words) is available


# Versions and tokens


async def test_the_newest_version_spoken_is_used(scheduler: RestScheduler, player: Any) -> None:
    info = await scheduler.info()
    assert (info.version, info.backend) == ("26.05.5", "rest v0.0.44")
    assert [asked.path.split("/")[2] for asked in player.asked] == ["v0.0.45", "v0.0.44", "v0.0.44"]


async def test_a_version_that_goes_away_is_found_anew(scheduler: RestScheduler, player: Any, reply: Any) -> None:
    player.answers["POST", "/job/submit"] = reply('{"job_id": 5}')
    await scheduler.info()
    player.versions = {"v0.0.45"}
    assert await scheduler.submit(SCRIPT, "alice") == 5
    assert [a.path for a in player.asked if a.method == "POST"] == [
        "/slurm/v0.0.44/job/submit",
        "/slurm/v0.0.45/job/submit",
    ]


async def test_no_version_in_common_is_said(scheduler: RestScheduler, player: Any) -> None:
    player.versions = {"v0.0.37"}
    with pytest.raises(SchedulerUnavailable, match="speaks none of"):
        await scheduler.info()


async def test_each_user_has_a_token_of_minutes(scheduler: RestScheduler, player: Any, reply: Any, clock: Any) -> None:
    player.answers["POST", "/job/submit"] = reply('{"job_id": 5}')
    key = b"0123456789abcdef0123456789abcdef"

    async def token_of_submit(user: str) -> str:
        await scheduler.submit(SCRIPT, user)
        asked = next(asked for asked in reversed(player.asked) if asked.method == "POST")
        assert asked.headers["x-slurm-user-name"] == user
        token: str = asked.headers["x-slurm-user-token"]
        return token

    first = await token_of_submit("alice")
    claims = jwt.decode(first, key, algorithms=["HS256"], options={"verify_exp": False, "verify_iat": False})
    now = clock.seconds()
    assert claims["sun"] == "alice"
    assert now < claims["exp"] <= now + 600
    assert claims["iat"] < now  # tolerates a cluster whose clock is behind
    assert await token_of_submit("alice") == first
    assert await token_of_submit("bob") != first
    clock.forward(301)
    assert await token_of_submit("alice") != first


async def test_a_refused_token_is_minted_anew_with_the_key_as_it_is(
    scheduler: RestScheduler, player: Any, reply: Any, tmp_path: Path
) -> None:
    new = b"another key, of the cluster now!"

    def submit(asked: Any) -> Any:
        try:
            jwt.decode(
                asked.headers["x-slurm-user-token"],
                new,
                algorithms=["HS256"],
                options={"verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidSignatureError:
            return reply(errors(1007, "Protocol authentication error"), 511, twice=True)
        return reply('{"job_id": 5}')

    player.answers["POST", "/job/submit"] = submit
    with pytest.raises(SchedulerUnavailable, match="who we say we are"):
        await scheduler.submit(SCRIPT, "alice")
    (tmp_path / "jwt.key").write_bytes(new)
    assert await scheduler.submit(SCRIPT, "alice") == 5


@pytest.mark.parametrize(
    ("status", "text"),
    [(401, "Authentication failure"), (511, errors(1007)), (500, errors(1007)), (500, errors(6001))],
)
async def test_every_form_of_not_knowing_us_is_told_as_such(
    scheduler: RestScheduler, player: Any, reply: Any, status: int, text: str
) -> None:
    player.answers["GET", "/ping/"] = reply(text, status, twice=True)
    with pytest.raises(SchedulerUnavailable, match="who we say we are"):
        await scheduler.info()


def test_a_key_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SchedulerUnavailable, match=r"none\.key"):
        Tokens(tmp_path / "none.key", lambda: 0.0).token("alice")


async def test_a_controller_that_does_not_respond_is_not_up(
    scheduler: RestScheduler, player: Any, reply: Any, read_recorded: Callable[[str], str]
) -> None:
    player.answers["GET", "/ping/"] = reply(read_recorded("rest-ping-badtoken.json"))
    with pytest.raises(SchedulerUnavailable, match="ctl: Protocol authentication error"):
        await scheduler.info()


async def test_slurmrestds_unix_socket(player: Any, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0" * 32)
    server = await asyncio.start_unix_server(player.serve, tmp_path / "slurmrestd.sock")
    client = RestClient(f"unix:{tmp_path}/slurmrestd.sock", Tokens(key, lambda: 0.0), patience=0.0)
    scheduler = RestScheduler(client, cluster="c", viewer="alice")
    assert (await scheduler.info()).cluster == "testcluster"
    await scheduler.close()
    server.close()
    (tmp_path / "slurmrestd.sock").unlink()
    with pytest.raises(SchedulerUnavailable, match=r"slurmrestd\.sock cannot be reached"):
        await scheduler.info()


async def test_an_address_may_have_a_path(player: Any, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0" * 32)
    player.prefix = "/slurm-api"
    client = RestClient(f"http://127.0.0.1:{player.port}/slurm-api/", Tokens(key, lambda: 0.0), patience=0.0)
    scheduler = RestScheduler(client, cluster="c", viewer="alice")
    assert (await scheduler.info()).cluster == "testcluster"
    assert all(asked.path.startswith("/slurm-api/slurm/v0.0.") for asked in player.asked)
    await scheduler.close()


# Submitting


@pytest.mark.parametrize("twice", [False, True])
async def test_a_refusal_keeps_slurms_words(
    scheduler: RestScheduler, player: Any, reply: Any, read_recorded: Callable[[str], str], twice: bool
) -> None:
    player.answers["POST", "/job/submit"] = reply(read_recorded("rest-submit-badpart.json"), 422, twice=twice)
    with pytest.raises(SubmitRefused, match="Invalid partition name specified"):
        await scheduler.submit(SCRIPT, "alice")
    player.answers["POST", "/job/submit"] = reply(read_recorded("rest-submit-answer.json"))
    assert await scheduler.submit(SCRIPT, "alice") == 8  # the second answer is nobody's


async def test_a_limit_is_worth_waiting_for(scheduler: RestScheduler, player: Any, reply: Any) -> None:
    player.answers["POST", "/job/submit"] = reply(errors(2050), 422)
    with pytest.raises(SubmitDeferred):
        await scheduler.submit(SCRIPT, "alice")


async def test_a_lost_answer_is_a_doubt_and_the_job_is_sent_once(hasty: RestScheduler, player: Any, reply: Any) -> None:
    await hasty.info()  # a connection that could be used again
    for lost in (reply(cut=True), reply(hang=True), reply("<html>bad gateway</html>", 502)):
        player.asked.clear()
        player.answers["POST", "/job/submit"] = lost
        with pytest.raises(SubmitUnknown):
            await hasty.submit(SCRIPT, "alice")
        assert player.paths() == ["POST /slurm/v0.0.44/job/submit"]


async def test_nobody_there_is_certain(tmp_path: Path, unused_port: int) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0" * 32)
    client = RestClient(f"http://127.0.0.1:{unused_port}", Tokens(key, lambda: 0.0), patience=0.0)
    scheduler = RestScheduler(client, cluster="c", viewer="alice")
    with pytest.raises(SchedulerUnavailable, match="cannot be reached"):
        await scheduler.submit(SCRIPT, "alice")


async def test_a_question_on_a_dead_connection_is_asked_again(
    scheduler: RestScheduler, player: Any, reply: Any
) -> None:
    await scheduler.info()
    turns = iter([reply(cut=True), reply(states(_5="RUNNING"))])
    player.answers["GET", "/jobs/state/"] = lambda _: next(turns)
    player.answers["GET", "/job/5"] = reply(job(5, "RUNNING"))
    assert set(await scheduler.look([5])) == {5}


# Looking


async def test_ids_are_never_joined_by_commas(scheduler: RestScheduler, player: Any, reply: Any) -> None:
    player.answers["GET", "/jobs/state/"] = reply(states(_5="PENDING", _6="PENDING", _5_1="RUNNING"))
    for i in (5, 6):
        player.answers["GET", f"/job/{i}"] = reply(job(i, "PENDING"))
    assert set(await scheduler.look([5, 6])) == {5, 6}
    asked = next(asked for asked in player.asked if "state" in asked.path)
    assert asked.query == [("job_id", "5"), ("job_id", "6")]


async def test_a_quiet_job_costs_one_cheap_question(
    scheduler: RestScheduler, player: Any, reply: Any, clock: Any
) -> None:
    player.answers["GET", "/jobs/state/"] = reply(states(_5="RUNNING"))
    player.answers["GET", "/job/5"] = reply(job(5, "RUNNING", comment=READY, start_time=int(clock.seconds())))
    await scheduler.look([5])
    player.asked.clear()
    for _ in range(10):
        clock.forward(1)
        await scheduler.look([5])
    assert player.paths() == ["GET /slurm/v0.0.44/jobs/state/"] * 10
    clock.forward(60)
    await scheduler.look([5])
    assert player.paths()[-1] == "GET /slurm/v0.0.44/job/5"


async def test_a_silent_job_is_asked_often_at_first_and_less_often_later(
    scheduler: RestScheduler, player: Any, reply: Any, clock: Any
) -> None:
    player.answers["GET", "/jobs/state/"] = reply(states(_5="RUNNING"))
    player.answers["GET", "/job/5"] = reply(job(5, "RUNNING", start_time=int(clock.seconds())))

    async def details(seconds: int) -> int:
        player.asked.clear()
        for _ in range(seconds * 2):
            clock.forward(0.5)
            await scheduler.look([5], awaited=[5])
        return sum(1 for path in player.paths() if path == "GET /slurm/v0.0.44/job/5")

    assert await details(10) == 20
    await details(590)
    assert await details(60) <= 3


async def test_a_pending_jobs_reason_is_not_asked_each_time(
    scheduler: RestScheduler, player: Any, reply: Any, clock: Any
) -> None:
    player.answers["GET", "/jobs/state/"] = reply(states(_5="PENDING"))
    player.answers["GET", "/job/5"] = reply(job(5, "PENDING", state_reason="Priority"))
    for _ in range(21):
        assert (await scheduler.look([5]))[5].reason == "Priority"
        clock.forward(1)
    assert player.paths().count("GET /slurm/v0.0.44/job/5") == 3


async def test_what_left_the_queue_is_asked_of_accounting_once(
    scheduler: RestScheduler, player: Any, reply: Any, read_recorded: Callable[[str], str], clock: Any
) -> None:
    player.answers["GET", "/jobs/state/"] = reply(states())
    player.answers["GET", "/jobs/"] = reply(read_recorded("restdb-job.json"))
    for _ in range(3):
        clock.forward(60)
        assert (await scheduler.look([8]))[8].state is JobState.FAILED
    (asked,) = [asked for asked in player.asked if asked.path == "/slurmdb/v0.0.44/jobs/"]
    assert ("step", "8") in asked.query
    assert 0 < int(dict(asked.query)["start_time"].removeprefix("uts")) < clock.seconds()


async def test_accounting_that_is_late_ends_nothing(
    scheduler: RestScheduler, player: Any, reply: Any, read_recorded: Callable[[str], str], clock: Any
) -> None:
    late = json.loads(read_recorded("restdb-job.json"))
    late["jobs"][0]["state"]["current"] = ["RUNNING"]
    player.answers["GET", "/jobs/state/"] = reply(states())
    player.answers["GET", "/jobs/"] = reply(json.dumps(late))
    for _ in range(100):
        clock.forward(1)
        seen = (await scheduler.look([8]))[8]
        assert (seen.state, "accounting still says RUNNING" in seen.reason) == (JobState.UNKNOWN, True)
    assert player.paths().count("GET /slurmdb/v0.0.44/jobs/") < 10  # ever more seldom
    player.answers["GET", "/jobs/"] = reply(read_recorded("restdb-job.json"))
    clock.forward(30)
    assert (await scheduler.look([8]))[8].state is JobState.FAILED


async def test_a_job_that_accounting_does_not_know_is_left_out(
    scheduler: RestScheduler, player: Any, reply: Any, clock: Any
) -> None:
    player.answers["GET", "/jobs/state/"] = reply(states())
    player.answers["GET", "/jobs/"] = reply('{"jobs": []}')
    for _ in range(100):
        clock.forward(1)
        assert await scheduler.look([8]) == {}
    assert player.paths().count("GET /slurmdb/v0.0.44/jobs/") < 10


async def test_accounting_that_does_not_answer_ends_nothing_and_hides_no_live_job(
    scheduler: RestScheduler, player: Any, reply: Any, clock: Any
) -> None:
    player.answers["GET", "/jobs/state/"] = reply(states(_5="PENDING"))
    player.answers["GET", "/job/5"] = reply(job(5, "PENDING"))
    player.answers["GET", "/jobs/"] = reply(errors(7000, "Unable to connect to database"), 500)
    for _ in range(20):
        clock.forward(1)
        seen = await scheduler.look(range(5, 30))
        assert seen[5].state is JobState.PENDING
        assert {seen[i].state for i in range(6, 30)} == {JobState.UNKNOWN}
        assert "Unable to connect to database" in seen[29].reason
    assert len([path for path in player.paths() if "slurmdb" in path]) <= 6  # one question for all, ever more seldom


async def test_many_that_left_the_queue_are_asked_about_some_at_a_time(
    scheduler: RestScheduler, player: Any, reply: Any, read_recorded: Callable[[str], str]
) -> None:
    row = json.loads(read_recorded("restdb-job.json"))["jobs"][0]

    def accounting(asked: Any) -> Any:
        return reply(json.dumps({"jobs": [{**row, "job_id": int(i)} for name, i in asked.query if name == "step"]}))

    player.answers["GET", "/jobs/state/"] = reply(states())
    player.answers["GET", "/jobs/"] = accounting
    ids = range(1, 2 * left.AT_ONCE + 1)
    first = await scheduler.look(ids)
    assert [job.state for job in first.values()].count(JobState.UNKNOWN) == left.AT_ONCE
    assert {job.state for job in (await scheduler.look(ids)).values()} == {JobState.FAILED}


async def test_an_slurmdbd_that_hangs_hides_no_live_job(hasty: RestScheduler, player: Any, reply: Any) -> None:
    turns = iter(["PENDING", "RUNNING", "RUNNING"])
    player.answers["GET", "/jobs/state/"] = lambda _: reply(states(_5=next(turns)))
    player.answers["GET", "/job/5"] = reply(job(5, "RUNNING", comment=READY))
    player.answers["GET", "/jobs/"] = reply(hang=True)
    for _ in range(3):
        seen = await hasty.look([5, 8])
        assert (seen[5].state, seen[8].state) == (JobState.RUNNING, JobState.UNKNOWN)


@pytest.mark.parametrize("status", [500, 511])
async def test_a_failed_question_is_never_an_end(
    scheduler: RestScheduler, player: Any, reply: Any, status: int
) -> None:
    player.answers["GET", "/jobs/state/"] = reply(errors(-1, "Unspecified error"), status, twice=True)
    with pytest.raises(SchedulerUnavailable, match="Unspecified error"):
        await scheduler.look([8])
    assert len(player.paths()) == 1


async def test_an_id_that_slurmrestd_rejects_does_not_hide_the_others(
    scheduler: RestScheduler, player: Any, reply: Any
) -> None:
    def answer(asked: Any) -> Any:
        bad = ("job_id", "99999999") in asked.query
        return reply(errors(9000), 422, twice=True) if bad else reply(states(_5="PENDING", _9="RUNNING"))

    player.answers["GET", "/jobs/state/"] = answer
    player.answers["GET", "/job/5"] = reply(job(5, "PENDING"))
    player.answers["GET", "/jobs/"] = reply('{"jobs": []}')
    assert set(await scheduler.look([5, 99999999])) == {5}
    assert all(asked.query for asked in player.asked if "state" in asked.path), "never the states of all"


async def test_a_thousand_jobs_are_one_question(scheduler: RestScheduler, player: Any, reply: Any) -> None:
    everything = reply(json.dumps({"jobs": [{"job_id": str(i), "state": ["PENDING"]} for i in range(3000)]}))
    player.answers["GET", "/jobs/state/"] = everything
    for i in range(1, 1201):
        player.answers["GET", f"/job/{i}"] = reply(job(i, "PENDING"))
    seen = await scheduler.look(range(1, 1201))
    assert len(seen) == 1200
    assert [len(asked.query) for asked in player.asked if "state" in asked.path] == [1000, 200]


async def test_a_requeued_job_is_pending(scheduler: RestScheduler, player: Any, reply: Any) -> None:
    player.answers["GET", "/jobs/state/"] = reply(states(_5="PREEMPTED REQUEUED COMPLETING"))
    player.answers["GET", "/job/5"] = reply(job(5, "PENDING REQUEUED", restart_cnt=1))
    assert (await scheduler.look([5]))[5].state is JobState.PENDING


# Finding


def diag(waiting: int, storage: str = "accounting_storage/slurmdbd", up_since: int = 1) -> str:
    statistics = {"dbd_agent_queue_size": waiting, "req_time_start": {"set": True, "number": up_since}}
    return json.dumps({"statistics": statistics, "meta": {"plugin": {"accounting_storage": storage}}})


async def test_a_name_is_looked_for_in_accounting_when_it_is_complete(
    scheduler: RestScheduler, player: Any, reply: Any
) -> None:
    player.answers["GET", "/diag/"] = reply(diag(0))
    player.answers["GET", "/jobs/"] = reply('{"jobs": []}')
    player.answers["GET", "/jobs/state/"] = reply(states())
    assert await scheduler.find("sluice-5-1", "alice") is None
    query = dict(next(asked for asked in player.asked if "slurmdb" in asked.path).query)
    assert (query["job_name"], query["users"]) == ("sluice-5-1", "alice")
    assert int(query["start_time"].removeprefix("uts")) > 0


async def test_a_job_that_accounting_has_not_heard_of_yet_is_found_in_the_queue(
    scheduler: RestScheduler, player: Any, reply: Any, clock: Any
) -> None:
    player.answers["GET", "/diag/"] = reply(diag(0))
    player.answers["GET", "/jobs/"] = reply('{"jobs": []}')
    now = int(clock.seconds())
    player.answers["GET", "/jobs/state/"] = reply(states(**{f"_{i}": "PENDING" for i in range(1, 101)}))
    for i in range(1, 101):
        player.answers["GET", f"/job/{i}"] = reply(job(i, "PENDING", submit_time=now - 60 * (100 - i)))
    found = await scheduler.find("sluice-97-1", "alice")
    assert found is not None
    assert found.job_id == 97
    assert await scheduler.find("sluice-2-1", "alice") is None  # an hour old: accounting would know it
    player.asked.clear()
    assert await scheduler.find("sluice-3-1", "alice") is None
    asked = [path for path in player.paths() if "/slurm/v0.0.44/job/" in path]
    assert asked == []  # what a job is called does not change
    # but a slurmctld that crashed may give a lost job's number again
    player.answers["GET", "/diag/"] = reply(diag(0, up_since=2))
    player.answers["GET", "/job/97"] = reply(job(97, "PENDING", submit_time=now, name="sluice-200-1"))
    found = await scheduler.find("sluice-200-1", "alice")
    assert found is not None
    assert (found.job_id, found.name) == (97, "sluice-200-1")


@pytest.mark.parametrize("storage", ["accounting_storage/slurmdbd", "accounting_storage/none"])
async def test_a_name_is_looked_for_in_the_queue_when_accounting_is_behind_or_not_there(
    scheduler: RestScheduler, player: Any, reply: Any, storage: str
) -> None:
    player.answers["GET", "/diag/"] = reply(diag(3, storage))
    player.answers["GET", "/jobs/"] = reply('{"jobs": []}')
    player.answers["GET", "/jobs/state/"] = reply(states(_5="PENDING", _6="RUNNING", _7="COMPLETED"))
    for i in (5, 6, 7):
        player.answers["GET", f"/job/{i}"] = reply(job(i, "PENDING"))
    found = await scheduler.find("sluice-6-1", "alice")
    assert found is not None
    assert found.job_id == 6
    assert await scheduler.find("sluice-6-1", "bob") is None
    assert await scheduler.find("sluice-8-1", "alice") is None


async def test_what_was_submitted_before_the_session_was_there_is_not_asked_about(
    scheduler: RestScheduler, player: Any, reply: Any, clock: Any
) -> None:
    now = clock.seconds()
    name = f"sluice-{str(ULID.from_timestamp(now - 60)).lower()}-1"
    player.answers["GET", "/diag/"] = reply(diag(3))  # accounting is behind
    player.answers["GET", "/jobs/"] = reply('{"jobs": []}')
    player.answers["GET", "/jobs/state/"] = reply(states(**{f"_{i}": "PENDING" for i in range(1, 1001)}))
    for i in range(1, 1001):
        player.answers["GET", f"/job/{i}"] = reply(job(i, "PENDING", submit_time=int(now) - 60 * (1000 - i)))
    assert await scheduler.find(name, "alice") is None
    assert len([path for path in player.paths() if "/slurm/v0.0.44/job/" in path]) < 30


async def test_a_name_is_not_missing_when_accounting_could_not_be_asked(
    scheduler: RestScheduler, player: Any, reply: Any
) -> None:
    player.answers["GET", "/diag/"] = reply(diag(3))
    player.answers["GET", "/jobs/"] = reply(errors(7000), 500)
    player.answers["GET", "/jobs/state/"] = reply(states())
    with pytest.raises(SchedulerUnavailable):
        await scheduler.find("sluice-8-1", "alice")


# Cancelling


async def test_a_refusal_inside_a_200_is_seen(
    scheduler: RestScheduler, player: Any, reply: Any, read_recorded: Callable[[str], str]
) -> None:
    player.answers["DELETE", "/job/9"] = reply(read_recorded("rest-delete-denied.json"))
    with pytest.raises(Forbidden, match=r"Access/permission denied"):
        await scheduler.cancel(9, "bob")


@pytest.mark.parametrize("number", [2017, 2021])
async def test_what_is_over_needs_no_cancelling(scheduler: RestScheduler, player: Any, reply: Any, number: int) -> None:
    status = {"status": [{"error": {"code": number, "message": "over"}, "job_id": {"number": 9}}]}
    player.answers["DELETE", "/job/9"] = reply(json.dumps(status))
    await scheduler.cancel(9, "alice")
    player.answers["DELETE", "/job/9"] = reply(errors(number), 404, twice=True)
    await scheduler.cancel(9, "alice")


async def test_a_cancel_has_no_signal(
    scheduler: RestScheduler, player: Any, reply: Any, read_recorded: Callable[[str], str]
) -> None:
    player.answers["DELETE", "/job/9"] = reply(read_recorded("rest-delete-answer.json"))
    await scheduler.cancel(9, "alice")
    assert player.asked[-1].query == []  # with one, the job would end FAILED


async def test_a_cancel_whose_answer_is_lost_can_be_repeated(scheduler: RestScheduler, player: Any, reply: Any) -> None:
    player.answers["DELETE", "/job/9"] = reply(cut=True)
    with pytest.raises(SchedulerUnavailable, match="lost"):
        await scheduler.cancel(9, "alice")


# Restarts


async def test_a_question_outlives_a_restart_and_a_submit_is_not_sent_twice(
    scheduler: RestScheduler, player: Any, reply: Any
) -> None:
    player.answers["GET", "/partitions/"] = player.answers["GET", "/nodes/"] = reply("{}")
    scheduler._client._patience = 60.0
    await scheduler.info()
    away = 3

    def partitions(asked: Any) -> Any:
        nonlocal away
        away -= asked.method == "GET"
        return reply(cut=True) if away > 0 else reply("{}")

    player.answers["GET", "/partitions/"] = partitions
    assert (await scheduler.inventory()).partitions == ()
    assert away <= 0
    player.answers["POST", "/job/submit"] = reply(cut=True)
    with pytest.raises(SubmitUnknown):
        await scheduler.submit(SCRIPT, "alice")
    assert player.paths().count("POST /slurm/v0.0.44/job/submit") == 1


async def test_one_that_was_never_there_is_said_at_once(tmp_path: Path, unused_port: int) -> None:
    key = tmp_path / "jwt.key"
    key.write_bytes(b"x" * 32)
    client = RestClient(f"http://127.0.0.1:{unused_port}", Tokens(key, lambda: 0.0), patience=3600.0)
    with pytest.raises(SchedulerUnavailable, match="cannot be reached"):
        await RestScheduler(client, cluster="c", viewer="alice").info()


async def test_a_newer_slurm_behind_the_same_address_is_noticed(
    scheduler: RestScheduler, player: Any, reply: Any, read_recorded: Callable[[str], str]
) -> None:
    assert (await scheduler.info()).backend == "rest v0.0.44"
    newer = read_recorded("rest-ping.json").replace("26.05.5", "27.05.0")
    player.answers["GET", "/ping/"] = reply(newer)
    player.versions.add("v0.0.45")
    assert (await scheduler.info()).backend == "rest v0.0.44"  # as this one was asked
    assert (await scheduler.info()).backend == "rest v0.0.45"


async def test_the_version_in_use_is_told_while_another_is_looked_for(
    player: Any, reply: Any, read_recorded: Callable[[str], str], tmp_path: Path
) -> None:
    key = tmp_path / "jwt.key"
    key.write_bytes(b"x" * 32)
    client = RestClient(f"http://127.0.0.1:{player.port}", Tokens(key, lambda: 0.0), patience=0.0)
    told: list[str | None] = []

    def ping(_: Any) -> Any:
        told.append(client.version)
        return reply(read_recorded("rest-ping.json"))

    player.answers["GET", "/ping/"] = ping
    player.answers["GET", "/conf/"] = reply(player.no_such_version, 404)  # as before Slurm 26.05
    await client.get("slurm", "/ping/", user="alice")
    with pytest.raises(SchedulerUnavailable, match="has no GET"):
        await client.get("slurm", "/conf/", user="alice")
    await client.close()
    assert told == [None, "v0.0.44", "v0.0.44"]


# TLS


async def test_https_is_believed_by_the_ca_that_is_named(
    player: Any, tmp_path: Path, clock: Any, authority: Callable[[str], tuple[Path, Path, Path]]
) -> None:
    ca, certificate, key = authority("localhost")
    other, _, _ = authority("elsewhere")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(player.serve, "localhost", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    token_key = tmp_path / "jwt.key"
    token_key.write_bytes(b"x" * 32)
    for ca_file, believed in ((ca, True), (other, False), (None, False)):
        client = RestClient(url, Tokens(token_key, clock.seconds), ca_file=ca_file, patience=0.0)
        scheduler = RestScheduler(client, cluster="c", viewer="alice")
        if believed:
            assert (await scheduler.info()).backend == "rest v0.0.44"
        else:
            with pytest.raises(SchedulerUnavailable, match=r"(?i)certificate"):
                await scheduler.info()
        await scheduler.close()
    server.close()
