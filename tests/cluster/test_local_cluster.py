"""The local cluster as its users see it: Slurm, users, GPUs, ssh, Apptainer, the build host."""

import base64
import hashlib
import hmac
import json
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from gateway.cluster import Cluster
from gateway.errors import ClusterError, ClusterNotFound
from tests.waiting import until

pytestmark = pytest.mark.cluster


def ssh(cluster: Cluster, user: str, command: str, host: str = "login") -> subprocess.CompletedProcess[str]:
    with cluster.ssh_argv(user, [command], host) as argv:
        return subprocess.run(argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def run_job(cluster: Cluster, user: str, options: str, script: str) -> str:
    """What a job printed: submitted on the login node, waited for."""
    name = f"out-{hashlib.sha256(f'{user}{options}{script}{time.time_ns()}'.encode()).hexdigest()[:12]}"
    done = ssh(cluster, user, f"sbatch --wait -o {name} {options} --wrap '{script}'; cat {name}; rm -f {name}")
    return done.stdout.partition("\n")[2] + done.stderr


def token(cluster: Cluster, user: str) -> str:
    """A Slurm token for this user, signed by the key that the cluster gives to its gateway."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    claims = {"iat": int(time.time()), "exp": int(time.time()) + 60, "sun": user}
    text = f"{part(json.dumps({'alg': 'HS256', 'typ': 'JWT'}).encode())}.{part(json.dumps(claims).encode())}"
    return f"{text}.{part(hmac.digest(cluster.jwt_key.read_bytes(), text.encode(), 'sha256'))}"


def test_partitions_accounts_and_qos(slurm_cluster: Cluster) -> None:
    partitions = slurm_cluster.exec("login", ["sinfo", "-h", "-o", "%P %l"], user="alice").stdout.splitlines()
    assert partitions == ["cpu* 7-00:00:00", "gpu 2-00:00:00", "debug 30:00"]
    users = slurm_cluster.exec("ctl", ["sacctmgr", "-nP", "show", "user", "format=user,defaultaccount,adminlevel"])
    assert {"alice|research|None", "bob|teaching|None", "oper|research|Operator"} <= set(users.stdout.splitlines())
    qos = slurm_cluster.exec("ctl", ["sacctmgr", "-nP", "show", "qos", "format=name,preempt,preemptmode"])
    assert {"normal|preemptible|cluster", "preemptible||requeue"} <= set(qos.stdout.splitlines())


def test_nodes_have_typed_gpus_slices_and_shards(slurm_cluster: Cluster) -> None:
    for node in slurm_cluster.nodes():
        assert node["gres"].startswith("gpu:a100:4,gpu:a100_1g.10gb:2,shard:a100:16")


@pytest.mark.parametrize(
    ("gres", "sees", "accounted"),
    [
        ("gpu:a100:2", "CUDA_VISIBLE_DEVICES=", "gres/gpu:a100=2"),
        ("gpu:a100_1g.10gb:1", "CUDA_VISIBLE_DEVICES=", "gres/gpu:a100_1g.10gb=1"),
        ("shard:3", "SLURM_SHARDS_ON_NODE=3", "gres/shard=3"),
    ],
)
def test_a_gpu_job_runs_and_is_accounted(slurm_cluster: Cluster, gres: str, sees: str, accounted: str) -> None:
    said = run_job(slurm_cluster, "alice", f"-p gpu --gres={gres}", "env; echo job=$SLURM_JOB_ID")
    assert sees in said
    job = said.rpartition("job=")[2].strip()
    sacct = ["sacct", "-nPX", "-j", job, "-o", "state,alloctres"]
    until(lambda: "COMPLETED" in slurm_cluster.exec("login", sacct).stdout)
    assert accounted in slurm_cluster.exec("login", sacct).stdout


def test_a_preemptible_job_makes_way_and_is_queued_again(slurm_cluster: Cluster) -> None:
    def submit(qos: str) -> str:
        argv = ["sbatch", "--parsable", "-N", "2", "--exclusive", "-q", qos, "-o", "/dev/null", "--wrap", "sleep 600"]
        return slurm_cluster.exec("login", argv, user="alice").stdout.strip()

    def state(job: str) -> str:
        return slurm_cluster.exec("login", ["squeue", "-h", "-j", job, "-o", "%T"]).stdout.strip()

    jobs = [submit("preemptible")]
    try:
        until(lambda: state(jobs[0]) == "RUNNING")
        jobs.append(submit("normal"))
        until(lambda: state(jobs[1]) == "RUNNING" and state(jobs[0]) == "PENDING")
    finally:
        slurm_cluster.exec("login", ["scancel", *jobs], user="alice")
        until(lambda: {node["state"] for node in slurm_cluster.nodes()} == {"idle"})


def test_ssh_admits_a_certificate_for_that_user_and_nothing_else(slurm_cluster: Cluster, tmp_path: Path) -> None:
    assert ssh(slurm_cluster, "bob", "id -un; pwd").stdout == "bob\n/home/bob\n"
    with slurm_cluster.ssh_argv("alice", ["true"]) as argv:
        assert subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode == 0
        as_bob = [word.replace("alice@", "bob@") for word in argv]
        refused = subprocess.run(as_bob, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert "Permission denied" in refused.stderr
        as_root = [word.replace("alice@", "root@") for word in argv]
        assert subprocess.run(as_root, check=False, capture_output=True, stdin=subprocess.DEVNULL).returncode != 0
        strange = tmp_path / "known_hosts"
        strange.write_text("")
        unknown = [word.replace(str(slurm_cluster.known_hosts), str(strange)) for word in argv]
        refused = subprocess.run(unknown, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert "Host key verification failed" in refused.stderr


def test_an_argv_over_ssh_arrives_as_it_is(slurm_cluster: Cluster) -> None:
    words = ["a b", "$(id)", "'", '"', "*", "ü"]
    with slurm_cluster.ssh_argv("alice", ["printf", "%s\\n", *words]) as argv:
        done = subprocess.run(argv, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.stdout.splitlines() == words


def test_slurmrestd_believes_tokens_of_the_clusters_key(slurm_cluster: Cluster) -> None:
    def ask(signed: str) -> int:
        request = urllib.request.Request(  # noqa: S310 - the address is our own cluster's
            f"{slurm_cluster.rest_url}/slurm/v0.0.42/jobs/", headers={"X-SLURM-USER-TOKEN": signed}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert ask(token(slurm_cluster, "alice")) == 200
    assert ask(token(slurm_cluster, "alice")[:-4] + "AAAA") != 200


def test_apptainer_runs_as_a_user_on_a_node(slurm_cluster: Cluster) -> None:
    script = """
        set -eu
        rm -rf box box.sif; mkdir -p box/bin box/etc box/dev box/proc box/sys box/tmp box/var/tmp box/home box/root
        cp /usr/bin/busybox box/bin/; for a in sh id cat; do ln -s busybox box/bin/$a; done
        echo root:x:0:0:root:/root:/bin/sh > box/etc/passwd; echo root:x:0: > box/etc/group
        apptainer -q build box.sif box
        apptainer -q exec box.sif id -un
        apptainer -q exec --fakeroot box.sif id -u
        rm -rf box box.sif
    """
    done = slurm_cluster.exec("node1", ["bash", "-c", script], user="alice")
    assert done.stdout.split() == ["alice", "0"]


def test_the_build_host_has_the_machines_network_and_its_way_to_packages(slurm_cluster: Cluster) -> None:
    seen = ssh(slurm_cluster, "alice", "hostname; env; cat $SLUICE_APT_CONF; cat /etc/resolv.conf", host="build")
    assert seen.stdout.startswith("build\n")
    assert "\nSLUICE_DEBIAN_MIRROR=" in seen.stdout
    assert Path("/etc/resolv.conf").read_text(encoding="utf-8").strip() in seen.stdout
    way_out = ["ip", "route", "show", "default"]  # other clusters' routes come and go meanwhile
    routes = subprocess.run(way_out, check=True, capture_output=True, text=True).stdout
    assert slurm_cluster.exec("build", way_out).stdout == routes
    binds = slurm_cluster.exec("build", ["sh", "-c", "echo $SLUICE_BUILD_BINDS"]).stdout.strip().split(",")
    slurm_cluster.exec("build", ["sh", "-c", 'for path; do test -r "$path"; done', "sh", *binds], user="alice")


def test_apptainer_builds_with_fakeroot_on_the_build_host(slurm_cluster: Cluster) -> None:
    script = """
        set -eu
        rm -rf box made.sif; mkdir -p box/bin box/etc box/dev box/proc box/sys box/tmp box/var/tmp box/home box/root
        cp /usr/bin/busybox box/bin/; for a in sh id cat mkdir env ls; do ln -s busybox box/bin/$a; done
        echo root:x:0:0:root:/root:/bin/sh > box/etc/passwd; echo root:x:0: > box/etc/group
        printf 'Bootstrap: localimage\\nFrom: box\\n%%post\\n  id -u > /built\\n' > made.def
        apptainer -q build --fakeroot made.sif made.def >&2
        apptainer -q exec made.sif cat /built
        mv made.sif /home/images/built-by-test.sif
        rm -rf box made.def
    """
    built = ssh(slurm_cluster, "alice", script, host="build")
    assert built.stdout == "0\n", built.stderr
    image = "/home/images/built-by-test.sif"
    assert slurm_cluster.exec("node2", ["apptainer", "-q", "exec", image, "cat", "/built"], user="bob").stdout == "0\n"
    assert slurm_cluster.exec("login", ["rm", "-f", image], user="bob", check=False).returncode != 0
    slurm_cluster.exec("login", ["rm", image], user="alice")


def test_no_host_but_build_has_dns_or_the_world(slurm_cluster: Cluster) -> None:
    for host in ("ctl", "login", "node1"):
        assert slurm_cluster.exec(host, ["cat", "/etc/resolv.conf"]).stdout == ""
        assert "default" not in slurm_cluster.exec(host, ["ip", "route"]).stdout


def test_slurmctld_can_be_stopped_and_started(slurm_cluster: Cluster) -> None:
    slurm_cluster.service("ctl", "stop", "slurmctld")
    try:
        with pytest.raises(ClusterError, match="sinfo"):
            slurm_cluster.nodes()
    finally:
        slurm_cluster.service("ctl", "start", "slurmctld")
    until(lambda: [node["state"] for node in slurm_cluster.nodes()] == ["idle", "idle"])


def test_errors_of_exec(slurm_cluster: Cluster) -> None:
    with pytest.raises(ClusterNotFound, match="no host 'node99'"):
        slurm_cluster.exec("node99", ["true"])
    with pytest.raises(ClusterError, match="ended with 3: oops"):
        slurm_cluster.exec("login", ["sh", "-c", "echo oops >&2; exit 3"])
    done = slurm_cluster.exec("login", ["sh", "-c", "cat; exit 3"], input="in", check=False)
    assert (done.returncode, done.stdout) == (3, "in")


def test_a_daemon_hangs_goes_on_and_crashes(slurm_cluster: Cluster) -> None:
    pid = "/run/sluice-host/slurmrestd.pid"
    state = f"sed -n 's/^State:[[:space:]]*//p' /proc/$(cat {pid})/status"

    def stopped() -> bool:
        return slurm_cluster.exec("ctl", ["bash", "-c", state]).stdout.startswith("T")

    slurm_cluster.signal("ctl", "slurmrestd", "STOP")
    until(stopped, what="it hangs")
    slurm_cluster.signal("ctl", "slurmrestd", "CONT")
    until(lambda: not stopped(), what="it goes on")
    before = slurm_cluster.exec("ctl", ["cat", pid]).stdout
    slurm_cluster.signal("ctl", "slurmrestd", "KILL")
    slurm_cluster.service("ctl", "start", "slurmrestd")
    assert slurm_cluster.exec("ctl", ["cat", pid]).stdout != before, "another one runs"
    with pytest.raises(ClusterError, match="no service nothing"):
        slurm_cluster.service("ctl", "start", "nothing")


def test_a_cable_is_pulled_and_plugged_in(slurm_cluster: Cluster) -> None:
    carrier = ["cat", "/sys/class/net/eth0/carrier"]
    slurm_cluster.cut_link("node2")
    try:
        assert slurm_cluster.exec("node2", carrier).stdout.strip() == "0"
    finally:
        slurm_cluster.restore_link("node2")
    assert slurm_cluster.exec("node2", carrier).stdout.strip() == "1"
    with pytest.raises(ClusterNotFound, match="no cable"):
        slurm_cluster.cut_link("build")
