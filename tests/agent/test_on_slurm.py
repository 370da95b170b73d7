"""The agent in jobs of a real Slurm, with real Apptainer, seen from outside as the gateway sees it."""

import json
import os
import shlex
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.cluster import Cluster
from gateway.model.announcement import Ended, Endpoint, parse
from gateway.model.jobspec import JobSpec
from gateway.render.bundle import agent_bundle
from tests.waiting import until

pytestmark = pytest.mark.cluster

PROGRAM = Path(__file__).with_name("program.py")
USER = "alice"
JOB_NAME = f"agent-test-{os.getpid()}"

#: A small image with this Debian's Python, a shell and nothing else.
MAKE_IMAGE = r"""
set -eu; cd "$1"; mkdir root; for d in bin etc dev proc sys tmp root home var/tmp usr/bin; do mkdir -p root/$d; done
py=$(readlink -f /usr/bin/python3); v=${py##*/}
cp "$py" root/usr/bin/; ln -s "$v" root/usr/bin/python3; mkdir -p "root/usr/lib/$v"
cd "/usr/lib/$v"; tar --exclude=__pycache__ --exclude=test --exclude=idlelib -cf "$1/lib.tar" .; cd "$1"
tar -C "root/usr/lib/$v" -xf lib.tar; rm lib.tar
ldd "$py" /usr/lib/"$v"/lib-dynload/*.so | grep -o '/[^ :]*\.so[^ :]*' | sort -u | while read -r l; do
  case $l in /usr/lib/"$v"/*) ;; *) mkdir -p "root${l%/*}"; cp -L "$l" "root$l";; esac; done
cp /usr/bin/busybox root/bin/; for a in sh cat ls sleep df touch; do ln -s busybox "root/bin/$a"; done
echo root:x:0:0:root:/root:/bin/sh >root/etc/passwd; echo root:x:0: >root/etc/group
apptainer --quiet build image.sif root/; rm -rf root
"""

#: Writes what it was given as JSON: the argument list, the environment as bytes are, some facts.
DUMP = r"""
import json, os, socket, sys
name = "task-%s.json" % os.environ["SLURM_PROCID"]
told = {"argv": sys.argv[1:], "env": dict(os.environ), "host": socket.gethostname(), "cwd": os.getcwd()}
told["tmp"], told["shm"] = (os.statvfs(path).f_blocks * os.statvfs(path).f_frsize for path in ("/tmp", "/dev/shm"))
told["home"] = os.access(os.environ["HOME"], os.W_OK)
told["run"] = sorted(os.listdir("/run/sluice"))
told["devices"] = sorted(os.listdir("/dev"))
with open("/session/" + name, "w", encoding="utf-8", errors="surrogateescape") as file:
    json.dump(told, file)
"""

HOSTILE = [
    "plain",
    "",
    " ",
    "a b",
    "a,b",
    "it's",
    'say "hi"',
    "two\nlines",
    "end\n",
    "\n",
    "$HOME",
    "${HOME}",
    "$(id)",
    "`id`",
    "\\",
    "\\n",
    "\\$HOME",
    "ends in \\",
    "é ☃ 😀",
    "-x",
    "--bind",
    "--help",
    "--",
    "=x",
    "a=b",
    "tab\tand\r\nCRLF\r",
    "!",
    "*",
    "~",
    "#!/bin/sh",
    "\x01\x1b[0m\x7f",
    "\"; touch /session/owned; echo '",
    "'$(touch /session/owned)'",
    "%d %s {{ x }} {% y %}",
    "x" * 5000,
    "/run/sluice",
]
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)


class Bench:
    """One user's place on the cluster for these tests, and the jobs in it."""

    def __init__(self, cluster: Cluster, folder: str, authority: Any) -> None:
        self.cluster = cluster
        self.inside = f"/home/{USER}/{folder}"
        self.outside = cluster.home / USER / folder
        self.authority = authority
        self.count = 0

    def run(self, *argv: str, host: str = "login", user: str = USER) -> str:
        return self.cluster.exec(host, list(argv), user=user).stdout.strip()

    def job(
        self,
        container: dict[str, Any],
        *,
        options: str = "",
        before: str = "",
        secrets: dict[str, str] | None = None,
        **changes: Any,
    ) -> "Job":
        """Submit; `before` is shell that runs before the agent."""
        self.count += 1
        name = f"session-{self.count}"
        bind = {"source": self.inside, "target": "/bench", "read_only": True}
        values: dict[str, Any] = {
            "session": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "kind": "service" if "service" in changes else "batch",
            "directory": f"{self.inside.removeprefix(f'/home/{USER}/')}/{name}",
            "client_ca": self.authority.pem,
            "secrets": list(secrets or {}),
            "stop": {"grace": 3, "kill_after": 10},
            "container": {"image": f"{self.inside}/image.sif", "binds": [bind, *container.pop("binds", [])]}
            | container,
        }
        spec = JobSpec.model_validate(values | changes)
        if secrets:
            stage = f"umask 077; mkdir {self.inside}/{name}; cat >{self.inside}/{name}/secrets.json"
            self.cluster.exec("login", ["sh", "-c", stage], user=USER, input=json.dumps(secrets))
        script = "\n".join(
            [
                "#!/bin/bash",
                f"#SBATCH --job-name={JOB_NAME} --mem=500 --time=10 --output={self.inside}/{name}.boot {options}",
                "runtime=$(mktemp -d /tmp/sluice-XXXXXX)",
                "cat >$runtime/spec.json <<'END'",
                spec.model_dump_json(),
                "END",
                "base64 -d >$runtime/agent.pyz <<'END'",
                agent_bundle().text + "END",
                before,
                "exec python3 -I -X utf8 $runtime/agent.pyz $runtime/spec.json",
                "",
            ]
        )
        done = self.cluster.exec("login", ["sbatch", "--parsable"], user=USER, input=script)
        return Job(self, int(done.stdout), name)

    def service(self, *options: str, **changes: Any) -> "Job":
        probe = {"probe": {"kind": "http"}, "probe_interval": 0.1}
        return self.job({"command": ["python3", "/bench/program.py", *options]}, service=probe, **changes)


class Job:
    def __init__(self, bench: Bench, number: int, name: str) -> None:
        self.bench = bench
        self.number = number
        self.folder = bench.outside / name
        self.boot = bench.outside / f"{name}.boot"

    def show(self, field: str) -> str:
        return self.bench.run("squeue", "-h", "-j", str(self.number), "-o", field, "-t", "all")

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in [self.boot, *sorted(self.folder.glob("*.log"))] if path.exists())

    def announced(self) -> Endpoint:
        def look() -> Endpoint | None:
            said = parse(self.show("%k"))
            assert not isinstance(said, Ended), self.log
            return said if isinstance(said, Endpoint) else None

        return until(look, what="ready")

    def ended(self) -> tuple[str, Ended | None]:
        """Slurm's state once the job is over, and what the agent said of the end."""

        def look() -> tuple[str, Ended | None] | None:
            state, _, comment = self.show("%T|%k").partition("|")
            if state in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
                return None
            said = parse(comment)
            return state, said if isinstance(said, Ended) else None

        return until(look, what="the end")

    def processes(self) -> list[str]:
        """What lives on the nodes of this job: its programs carry its number in their environment."""
        look = f"grep -slz '^SLURM_JOB_ID={self.number}$' /proc/[0-9]*/environ || true"
        return [
            line for node in ("node1", "node2") for line in self.bench.run("sh", "-c", look, host=node).splitlines()
        ]

    def talk(self, data: bytes, alpn: str | None = None) -> bytes:
        place = self.announced()
        raw = socket.create_connection((place.host, place.port), 60)
        with self.bench.authority.context(alpn).wrap_socket(raw) as sock, sock.makefile("rb") as stream:
            sock.sendall(data)
            answer: bytes = stream.readline() if alpn else stream.read()
        return answer

    def about(self) -> dict[str, Any]:
        answer = self.talk(b"GET /about HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        about: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return about

    def result(self, task: int = 0) -> dict[str, Any]:
        path = self.folder / "work" / f"task-{task}.json"
        assert path.exists(), self.log
        told: dict[str, Any] = json.loads(path.read_text())
        return told


@pytest.fixture(scope="session")
def bench(slurm_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, authority_type: Any) -> Iterator[Bench]:
    folder = f"agent-test-{os.getpid()}"
    authority = authority_type(tmp_path_factory.mktemp("pki"))
    made = Bench(slurm_cluster, folder, authority)
    slurm_cluster.exec("node1", ["mkdir", folder], user=USER)
    slurm_cluster.exec("node1", ["sh", "-c", MAKE_IMAGE, "sh", made.inside], user=USER)
    (made.outside / "program.py").write_text(PROGRAM.read_text())
    (made.outside / "dump.py").write_text(DUMP)
    yield made
    slurm_cluster.exec("login", ["scancel", f"--name={JOB_NAME}", "--me"], user=USER)
    remove = ["rm", "-rf", str(made.outside)]  # what a job that ends still writes may come in between
    until(lambda: subprocess.run(remove, check=False).returncode == 0, what="the folder is gone")


DUMPER = ["python3", "/bench/dump.py"]


def test_a_service_is_reached_from_outside_and_stopped(bench: Bench) -> None:
    job = bench.service("--child", options="--gres=gpu:a100:1 -p gpu")
    about = job.about()
    environment = about["env"]
    assert environment["SLURM_JOB_ID"] == str(job.number)
    assert environment["SLUICE_SOCKET"] == "/run/sluice/service.sock"
    assert environment["CUDA_VISIBLE_DEVICES"] != ""
    assert about["cwd"] == "/session"
    status = json.loads(job.talk(b'{"op":"status","usage":true}\n', "sluice-control"))
    assert (status["phase"], status["requests"]) == ("ready", 1)
    assert status["usage"]["rss_bytes"] > 1 << 20
    assert json.loads(job.talk(b'{"op":"stop"}\n', "sluice-control")) == {"ok": True}
    assert job.ended() == ("COMPLETED", Ended(reason="stopped", code=0))
    assert job.processes() == []


def test_scancel_ends_it_and_leaves_nothing(bench: Bench) -> None:
    job = bench.service("--child", "--ignore-term", "99")
    runtime = job.about()["env"]["SLUICE_RUNTIME"]
    assert "run" in bench.run("ls", runtime, host=job.show("%N"))
    bench.run("scancel", str(job.number))
    assert job.ended()[0] == "CANCELLED"
    assert job.processes() == []
    for node in ("node1", "node2"):
        assert bench.run("sh", "-c", f"ls -d {runtime} 2>&1 || true", host=node).endswith("No such file or directory")


def test_a_signal_to_the_batch_process_alone_is_a_clean_stop(bench: Bench) -> None:
    job = bench.service("--ignore-term", "1")
    job.announced()
    bench.run("scancel", "--batch", "--signal=TERM", str(job.number))
    assert job.ended() == ("COMPLETED", Ended(reason="stopped", code=0))
    assert job.log.count("got SIGTERM") == 2


def test_a_killed_agent_takes_everything_with_it(bench: Bench) -> None:
    job = bench.service("--child", "--ignore-term", "99")
    job.announced()
    bench.run("scancel", "--batch", "--signal=KILL", str(job.number))
    job.ended()
    until(lambda: job.processes() == [], what="an empty node")


def test_it_ends_before_the_time_limit(bench: Bench) -> None:
    job = bench.service(
        options="--time=1",
        before="export SLURM_JOB_START_TIME=$((SLURM_JOB_END_TIME-600))",
        stop={"grace": 1, "kill_after": 10, "before_limit": 45},
    )
    until(lambda: "ready after" in job.log, what="ready, however soon it has to end then")
    assert job.ended() == ("FAILED", Ended(reason="time_limit", code=124))


def test_a_batch_job_that_meets_its_time_limit_or_fails(bench: Bench) -> None:
    failed = bench.job({"command": ["sh", "-c", "echo broken; exit 4"]})
    assert failed.ended() == ("FAILED", Ended(reason="finished", code=4))
    assert "broken" in failed.log
    missing = bench.job({"command": ["sh"], "image": "/home/images/nothing.sif"})
    assert missing.ended() == ("FAILED", Ended(reason="image_missing", code=66))
    absent = bench.job({"command": ["no-such-program"]})
    assert absent.ended()[0] == "FAILED"
    assert "no-such-program" in absent.log


def test_hostile_values_arrive_unchanged(bench: Bench) -> None:
    arrive(bench, HOSTILE)


@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(TEXT, min_size=30, max_size=40))
def test_any_values_arrive_unchanged(bench: Bench, values: list[str]) -> None:
    arrive(bench, values)


def arrive(bench: Bench, values: list[str]) -> None:
    half = len(values) // 2
    names = [f"VALUE_{number}" for number in range(len(values))]
    job = bench.job(
        {"command": [*DUMPER, *values], "env": dict(zip(names[:half], values, strict=False))},
        secrets=dict(zip(names[half:], values[half:], strict=True)),
    )
    state, said = job.ended()
    assert (state, said) == ("COMPLETED", Ended(reason="finished", code=0)), job.log
    told = job.result()
    assert told["argv"] == values
    assert [told["env"].get(name) for name in names] == values
    assert not (job.folder / "secrets.json").exists()
    assert not (job.folder / "work" / "owned").exists()


def test_what_the_container_sees(bench: Bench) -> None:
    odd = 'it\'s a, "b" = c: d'
    bench.run("mkdir", "-p", f"{bench.inside}/{odd}")
    bench.run("touch", f"{bench.inside}/{odd}/there")
    script = f"#!/bin/sh\nset -e\nexport MORE=1\ntest -e /odd/there\n! touch /odd/new\n{shlex.join(DUMPER)} $#\n"
    job = bench.job(
        {
            "script": script,
            "env": {"PATH": "/usr/bin:/bin"},
            "binds": [{"source": f"{bench.inside}/{odd}", "target": "/odd", "read_only": True}],
        },
        before="export APPTAINER_BIND=/etc:/mnt APPTAINERENV_INTRUDER=1 HOME=/nowhere SECRET=1",
    )
    assert job.ended() == ("COMPLETED", Ended(reason="finished", code=0)), job.log
    told = job.result()
    assert told["argv"] == ["0"]
    assert told["env"]["PATH"] == "/usr/bin:/bin"
    assert told["home"]
    assert told["env"]["HOME"] == "/home/sluice"
    assert not {"INTRUDER", "SECRET"} & set(told["env"])
    assert min(told["tmp"], told["shm"]) > 1 << 30
    assert told["run"] == ["script"]
    assert "nvidia0" not in told["devices"]


def test_a_program_near_its_time_limit_may_save_its_state(bench: Bench) -> None:
    script = "trap 'echo saving; sleep 8; echo saved; exit 0' TERM\nwhile :; do sleep 0.1; done\n"
    job = bench.job(
        {"script": script},
        options="--time=1",
        before="export SLURM_JOB_START_TIME=$((SLURM_JOB_END_TIME-600))",
        stop={"grace": 1, "kill_after": 5, "before_limit": 45},
    )
    assert job.ended() == ("FAILED", Ended(reason="time_limit", code=124)), job.log
    assert "saved" in job.log


def test_tasks_on_two_nodes(bench: Bench) -> None:
    nasty = "a,b $(id) 'c'\r\n"
    job = bench.job(
        {"command": [*DUMPER, nasty], "env": {"NASTY": nasty}},
        options="--nodes=2 --ntasks-per-node=2 --gres=gpu:a100:2 -p gpu",
        launcher=["srun", "--kill-on-bad-exit=1"],
        secrets={"TOKEN": nasty},
    )
    assert job.ended() == ("COMPLETED", Ended(reason="finished", code=0)), job.log
    told = [job.result(task) for task in range(4)]
    assert [task["env"]["SLURM_NODEID"] for task in told] == ["0", "0", "1", "1"]
    assert len({task["host"] for task in told}) == 2
    assert {task["env"]["SLUICE_HEAD_NODE"] for task in told} == {told[0]["host"]}
    assert len({task["env"]["SLUICE_HEAD_PORT"] for task in told}) == 1
    for task in told:
        assert task["argv"] == [nasty]
        assert (task["env"]["NASTY"], task["env"]["TOKEN"]) == (nasty, nasty)
        assert task["env"]["CUDA_VISIBLE_DEVICES"]
    assert sorted(path.name for path in job.folder.iterdir() if path.name not in ("work", "home")) == [
        "claim-1",
        "job-1.log",
        "service-1.log",
    ]


def test_tasks_on_two_nodes_are_stopped_together(bench: Bench) -> None:
    script = "trap 'echo task $SLURM_PROCID saved; exit 0' TERM\necho up $SLURM_PROCID\nwhile :; do sleep 0.1; done\n"
    job = bench.job({"script": script}, options="--nodes=2 --ntasks-per-node=1", launcher=["srun"])
    until(lambda: job.log.count("up ") == 2, what="both tasks")
    assert not (job.folder / "task-1.json").exists()  # all have read it
    bench.run("scancel", "--batch", "--signal=TERM", str(job.number))
    assert job.ended() == ("COMPLETED", Ended(reason="stopped", code=0)), job.log
    assert "task 0 saved" in job.log
    assert "task 1 saved" in job.log
    assert job.processes() == []


def test_another_user_of_the_node_gets_nowhere(bench: Bench) -> None:
    job = bench.service()
    place = job.announced()
    look = (
        f"ls -d /tmp/sluice-*/run {bench.inside}/session-{bench.count}/work; cat {bench.inside}/session-*/*.log; true"
    )
    seen = bench.cluster.exec("node1", ["sh", "-c", f"({look}) 2>&1"], user="bob").stdout
    assert "service.sock" not in seen
    assert "sluice starting" not in seen
    assert "Permission denied" in seen
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(socket.create_connection((place.host, place.port), 60)) as sock:
        sock.settimeout(60)
        with pytest.raises(ssl.SSLError):
            sock.recv(1)
    bench.run("scancel", str(job.number))
    job.ended()
