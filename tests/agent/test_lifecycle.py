"""How jobs start and end: reasons, exit codes, drains, signals, and that nothing survives."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.agent.refusal import refusal

BATCH: dict[str, Any] = {"service": None}
SHELL = "/bin/sh"
#: Takes what is announced, and says nothing of a job.
NO_ANSWER = """#!/bin/sh
[ "$1" = show ] && exec sleep 600
for word in "$@"; do case $word in Comment=*) echo "$word" >>"$SLUICE_TEST_COMMENTS"; esac; done
"""


def batch(agent: Any, script: str, **changes: Any) -> Any:
    return agent.start(agent.spec(**BATCH, container={"script": script}, **changes))


def test_a_batch_job_gives_its_exit_code(agent: Any) -> None:
    batch(agent, "echo out; echo err >&2; echo kept >result; exit 7")
    assert agent.ends() == 7
    assert agent.comments == ["sluice/1 ended reason=finished code=7"]
    assert agent.output == "out\nerr\n"
    assert (agent.session / "work" / "result").read_text() == "kept\n"


def test_a_batch_job_killed_by_a_signal_gives_128_and_its_number(agent: Any) -> None:
    batch(agent, "kill -9 $$")
    assert agent.ends() == 137
    assert agent.comments == ["sluice/1 ended reason=finished code=137"]


def test_a_script_is_run_by_the_program_of_its_first_line(agent: Any) -> None:
    batch(agent, "#!/usr/bin/env python3\nimport sys\nprint(sys.version_info[0], __file__.rsplit('/', 1)[1])\n")
    assert agent.ends() == 0
    assert agent.output == "3 script\n"


def test_a_service_that_ends_by_itself_has_failed_even_with_0(agent: Any) -> None:
    agent.start(agent.spec())
    agent.announced()
    with pytest.raises(ValueError, match="invalid literal"):
        agent.get("/exit?code=0")
    assert agent.ends() == 70
    assert agent.comments[-1] == "sluice/1 ended reason=service_exited code=70"


def test_a_service_that_ends_before_it_is_ready_could_not_start(agent: Any) -> None:
    agent.start(agent.spec(container={"command": [SHELL, "-c", "echo no such model; exit 3"]}))
    assert agent.ends() == 3
    assert agent.comments == ["sluice/1 ended reason=start_failed code=3"]
    assert agent.output == "no such model\n"


def test_a_missing_image_is_told(agent: Any) -> None:
    agent.start(agent.spec(container={"image": "/nowhere/x.sif"}))
    assert agent.ends() == 66
    assert agent.comments == ["sluice/1 ended reason=image_missing code=66"]
    assert "/nowhere/x.sif is not there" in agent.log


def test_an_image_that_changed_is_refused_where_asked_for(agent: Any) -> None:
    agent.start(agent.spec(container={"sha256": "0" * 64, "verify": True}))
    assert agent.ends() == 66
    assert "has another content now" in agent.log


def test_a_node_without_apptainer_is_told(agent: Any) -> None:
    (agent.bin / "apptainer").unlink()
    agent.start(agent.spec())
    assert agent.ends() == 66
    assert "apptainer is not on the PATH" in agent.log


def test_a_service_that_never_answers_is_given_up(agent: Any) -> None:
    agent.start(agent.spec(service={"probe": {"kind": "http", "path": "/nothing"}, "start_timeout": 6}))
    assert agent.ends() == 69
    assert agent.comments == ["sluice/1 ended reason=probe_timeout code=69"]
    assert "last answer: HTTP 404" in agent.log
    assert agent.descendants() == []


def test_health_is_not_readiness_a_completion_is(agent: Any) -> None:
    agent.start(agent.spec(service={"probe": {"kind": "completion", "model": "tiny"}}))
    agent.announced()
    assert "not ready yet: HTTP 500" in agent.log
    assert "engine is dead" in agent.log


def test_a_service_may_listen_on_a_loopback_port(agent: Any) -> None:
    agent.start(agent.spec(service={"listen": "port", "probe": {"kind": "tcp"}}))
    status, body = agent.get("/about")
    environment = json.loads(body)["env"]
    assert status == 200
    assert environment["SLUICE_PORT"].isdigit()
    assert "SLUICE_SOCKET" not in environment


def test_a_stop_during_start_is_a_stop(agent: Any) -> None:
    command = [*agent.spec().container.command, "--delay", "60"]
    agent.start(agent.spec(container={"command": command}))
    agent.said("not ready yet")
    agent.stop()
    assert agent.ends() == 0
    assert agent.comments == ["sluice/1 ended reason=stopped code=0"]


def test_one_ignored_sigterm_is_followed_by_another(agent: Any) -> None:
    spec = agent.spec()
    command = [*spec.container.command, "--ignore-term", "1"]
    agent.start(agent.spec(container={"command": command}))
    agent.announced()
    agent.stop()
    assert agent.ends() == 0
    assert agent.output.count("got SIGTERM") == 2


def test_a_program_that_ignores_sigterm_is_killed_with_its_children(agent: Any) -> None:
    command = [*agent.spec().container.command, "--ignore-term", "99", "--child"]
    agent.start(agent.spec(container={"command": command}, stop={"grace": 1, "kill_after": 4}))
    agent.announced()
    agent.stop()
    assert agent.ends() == 0
    assert agent.descendants() == []
    assert "is killed" in agent.log


def test_children_in_sessions_of_their_own_do_not_survive(agent: Any) -> None:
    batch(agent, "setsid sleep 1000 & setsid nohup sleep 1001 >/dev/null 2>&1 & exit 0")
    assert agent.ends() == 0
    assert agent.descendants() == []


def test_a_stream_in_flight_is_finished_before_the_stop(agent: Any) -> None:
    agent.start(agent.spec(stop={"grace": 60, "kill_after": 120}))
    with agent.connect() as idle, agent.connect() as sock:
        sock.sendall(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n")
        assert sock.recv(1)
        assert agent.ask("status")["in_flight"] == 1
        agent.stop()
        assert b"draining" in idle.recv(4096)  # an idle connection is closed at once
        (agent.session / "work" / "go").touch()
        with sock.makefile("rb") as stream:
            rest = stream.read()
        assert rest.endswith(b"piece 1\n\r\n0\r\n\r\n" + refusal("draining"))  # no request behind it was taken
    assert agent.ends() == 0


def test_a_stream_longer_than_the_grace_is_cut(agent: Any) -> None:
    agent.start(agent.spec(stop={"grace": 1, "kill_after": 6}))
    with agent.connect() as sock:
        sock.sendall(b"GET /stream?n=1000&gap=0.1 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert sock.recv(1)
        agent.stop()
        assert agent.ends() == 0
    assert "1 in flight are cut off" in agent.log


def test_while_it_drains_it_takes_no_new_work_but_answers_the_gateway(agent: Any) -> None:
    agent.start(agent.spec(stop={"grace": 60, "kill_after": 120}))
    with agent.connect() as stream:
        stream.sendall(b"GET /stream?n=1000&gap=0.1 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert stream.recv(1)
        assert agent.ask("stop") == {"ok": True}
        assert agent.ask("status")["phase"] == "draining"
        with agent.connect() as sock:
            assert b"x-sluice-agent: draining" in sock.recv(4096)
    assert agent.ends() == 0
    assert agent.comments[-1] == "sluice/1 ended reason=stopped code=0"


def test_what_the_control_channel_does_not_know_is_an_error(agent: Any) -> None:
    agent.start(agent.spec())
    assert "known: status" in agent.ask("dance")["error"]
    with agent.connect("sluice-control") as sock:
        sock.sendall(b"not json\n[]\n")
        with sock.makefile("rb") as lines:
            assert not json.loads(lines.readline())["ok"]
            assert not json.loads(lines.readline())["ok"]


def test_other_signals_go_to_the_program(agent: Any) -> None:
    agent.start(agent.spec())
    agent.announced()
    agent.stop(signal.SIGUSR1)
    agent.printed("got SIGUSR1")


def test_a_stopped_batch_job_gives_the_programs_code(agent: Any) -> None:
    batch(agent, "trap 'echo saving; exit 9' TERM; echo on; while :; do sleep 0.05; done")
    agent.printed("on")
    agent.stop()
    assert agent.ends() == 9
    assert agent.comments == ["sluice/1 ended reason=stopped code=9"]
    assert "saving" in agent.output


def test_a_stop_does_not_wait_for_a_controller_that_does_not_answer(agent: Any) -> None:
    agent.program("scontrol", NO_ANSWER)
    batch(agent, "trap 'echo saving; exit 9' TERM; echo on; while :; do sleep 0.05; done")
    agent.printed("on")
    agent.stop()
    assert agent.ends() == 9
    assert agent.comments == ["sluice/1 ended reason=stopped code=9"]
    assert agent.descendants() == []


def test_a_service_ends_before_its_time_limit(agent: Any) -> None:
    now = int(time.time())
    end = now + 64  # it begins to stop a minute before
    agent.job_file.write_text(f"JobId=42 EndTime={time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(end))} X=1")
    agent.start(
        agent.spec(stop={"grace": 1, "kill_after": 4, "before_limit": 60}),
        SLURM_JOB_START_TIME=str(end - 600),
        SLURM_JOB_END_TIME=str(end),
    )
    agent.said("ready after")  # where that takes longer than 4 s it stops at once, and was never announced
    assert agent.ends() == 124
    assert time.time() < end
    assert agent.comments[-1] == "sluice/1 ended reason=time_limit code=124"


def test_a_time_limit_that_was_raised_is_seen(agent: Any) -> None:
    now = int(time.time())
    agent.job_file.write_text("JobId=42 EndTime=2099-01-01T00:00:00")
    agent.start(agent.spec(), SLURM_JOB_START_TIME=str(now - 100), SLURM_JOB_END_TIME=str(now - 1))
    agent.announced()
    assert agent.get("/health")[0] == 200


def test_a_controller_that_is_down_costs_only_time(agent: Any) -> None:
    agent.down.touch()
    agent.start(agent.spec())
    agent.said("trying again")
    agent.down.unlink()
    agent.announced()
    assert agent.get("/health")[0] == 200


def test_a_requeued_job_takes_back_the_word_of_its_last_run(agent: Any) -> None:
    agent.start(agent.spec(service={"probe": {"kind": "http", "path": "/nothing"}}), SLURM_RESTART_COUNT="1")
    agent.said("announced: sluice/1 starting")


def test_what_a_killed_agent_left_is_removed_by_the_next(agent: Any) -> None:
    left = agent.tmp / "sluice-old"
    (left / "locked").mkdir(parents=True)
    (left / "locked" / "file").touch()
    left.chmod(0o700)
    lock = left / ".lock"
    lock.touch()
    hour_ago = time.time() - 3600
    subprocess.run(["touch", "-d", f"@{int(hour_ago)}", lock], check=True)
    foreign = agent.tmp / "other-folder"
    foreign.mkdir()
    batch(agent, "true")
    assert agent.ends() == 0
    assert list(agent.tmp.iterdir()) == [foreign]


def test_a_session_directory_of_another_user_is_refused(agent: Any, tmp_path: Path) -> None:
    other = tmp_path / "link"
    (tmp_path / "real").mkdir()
    other.symlink_to(tmp_path / "real")
    batch(agent, "true", directory=str(other))
    assert agent.ends() == 71
    assert list(agent.tmp.iterdir()) == []
