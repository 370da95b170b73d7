"""The configuration files of a cluster's hosts, as text. Pure."""

from collections.abc import Mapping, Sequence

from gateway.cluster.spec import ACCOUNTS, BUILD_PORT, PEOPLE, Gpu, Net, Spec, parse_gpus

NODE_CPUS = 16
NODE_MEMORY_MB = 64000


def slurm_cluster_name(name: str) -> str:
    """Slurm makes table names of it, so no dashes."""
    return name.replace("-", "_")


def _gres_name(gpu: Gpu) -> str:
    return f"shard:{gpu.count}" if gpu.type == "shard" else f"gpu:{gpu.type}:{gpu.count}"


def slurm_conf(spec: Spec) -> str:
    gpus = parse_gpus(spec.gpus)
    kinds = sorted({"shard" if gpu.type == "shard" else "gpu" for gpu in gpus})
    tres = ["gres/gpu"] if kinds else []
    tres += [f"gres/{'shard' if gpu.type == 'shard' else f'gpu:{gpu.type}'}" for gpu in gpus]
    gres_types = f"GresTypes={','.join(kinds)}\nAccountingStorageTRES={','.join(tres)}\n" if kinds else ""
    gres = f" Gres={','.join(map(_gres_name, gpus))}" if gpus else ""
    nodes = "node1" if spec.nodes == 1 else f"node[1-{spec.nodes}]"
    # linuxproc and no task plugin: works on any machine, whichever cgroups it has. config_overrides: nodes may
    # say they have more CPUs and memory than this machine. DefMemPerCPU: or a job takes a node's whole memory.
    # KillWait: time for a service to finish what it is answering.
    return f"""\
ClusterName={slurm_cluster_name(spec.name)}
SlurmctldHost=ctl
SlurmUser=slurm
AuthType=auth/munge
CredType=cred/munge
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key=/etc/slurm/jwt_hs256.key
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SlurmctldDebug=info
SlurmdDebug=info
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/usr/bin/true
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0,max_rpc_cnt=0
PriorityType=priority/multifactor
PriorityWeightQOS=10000
PriorityWeightFairshare=1000
PriorityWeightAge=100
PreemptType=preempt/qos
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=ctl
AccountingStorageEnforce=associations,limits,qos
AccountingStoreFlags=job_comment,job_script,job_env
{gres_types}ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
InactiveLimit=0
KillWait=12
MinJobAge=300
MaxJobCount=50000
MaxArraySize=10001
SlurmdParameters=config_overrides
NodeName={nodes} CPUs={NODE_CPUS} Boards=1 SocketsPerBoard=2 CoresPerSocket={NODE_CPUS // 2} ThreadsPerCore=1 \
RealMemory={NODE_MEMORY_MB}{gres} State=UNKNOWN
PartitionName=DEFAULT Nodes={nodes} State=UP OverSubscribe=NO DefaultTime=01:00:00
PartitionName=cpu Default=YES MaxTime=7-00:00:00
PartitionName=gpu MaxTime=2-00:00:00
PartitionName=debug MaxTime=00:30:00 DefaultTime=00:10:00 PriorityTier=10
"""


def devices(gpus: Sequence[Gpu]) -> list[tuple[str, int, int]]:
    """The device files that a node's GPUs need below /dev: name, major and minor number."""
    if not gpus:
        return []
    files = [("nvidiactl", 195, 255)]
    minor = cap = 0
    for gpu in (gpu for gpu in gpus if gpu.type != "shard"):
        for _ in range(gpu.count):
            files.append((f"nvidia{minor}", 195, minor))
            if gpu.mig:
                files.append((f"nvidia-caps/nvidia-cap{cap}", 236, cap))
                cap += 1
            minor += 1
    return files


def gres_conf(spec: Spec) -> str:
    """The files are named: a bare Count= would put a node in the state INVALID_REG on older Slurm."""
    gpus = parse_gpus(spec.gpus)
    lines = ["AutoDetect=off"]
    minor = cap = 0
    whole: list[int] = []
    for gpu in (gpu for gpu in gpus if gpu.type != "shard"):
        if gpu.mig:
            for _ in range(gpu.count):
                lines.append(
                    f"Name=gpu Type={gpu.type} MultipleFiles=/dev/nvidia{minor},/dev/nvidia-caps/nvidia-cap{cap}"
                )
                minor += 1
                cap += 1
        else:
            last = minor + gpu.count - 1
            files = f"/dev/nvidia{minor}" if last == minor else f"/dev/nvidia[{minor}-{last}]"
            lines.append(f"Name=gpu Type={gpu.type} File={files}")
            whole += range(minor, last + 1)
            minor = last + 1
    shards = sum(gpu.count for gpu in gpus if gpu.type == "shard")
    lines += [f"Name=shard Count={shards // len(whole)} File=/dev/nvidia{i}" for i in whole if shards]
    return "\n".join(lines) + "\n"


def slurmdbd_conf() -> str:
    """MariaDB knows the user slurm by its socket: there is no password."""
    return """\
AuthType=auth/munge
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key=/etc/slurm/jwt_hs256.key
DbdHost=ctl
SlurmUser=slurm
LogFile=/var/log/slurm/slurmdbd.log
PidFile=/run/slurm/slurmdbd.pid
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
"""


def accounts_script(spec: Spec) -> str:
    """Run on ctl: `accounts cluster` before slurmctld starts, `accounts users` after."""
    users = []
    for person in PEOPLE:
        level = " adminlevel=Operator" if person.operator else ""
        users.append(
            f"sacctmgr -i -Q add user {person.name} account={person.account}"
            f" defaultaccount={person.account} qos=normal,preemptible defaultqos=normal{level}"
        )
    accounts = "\n".join(
        f"        sacctmgr -i -Q add account {name} description={name} organization=sluice" for name in ACCOUNTS
    )
    return f"""\
#!/bin/sh
# Writes the cluster's accounts, users and QOS into Slurm's database.
set -eu
case $1 in
    cluster)
        sacctmgr -i -Q add cluster {slurm_cluster_name(spec.name)}
        sacctmgr -i -Q add qos preemptible priority=0 preemptmode=requeue
        sacctmgr -i -Q modify qos normal set priority=100 preempt=preemptible
{accounts}
        ;;
    users)
        {chr(10).join("        " + line for line in users).strip()}
        ;;
esac
"""


def hosts_file(spec: Spec, net: Net) -> str:
    lines = ["127.0.0.1 localhost", *(f"{net.address(host.octet)} {host.name}" for host in spec.hosts)]
    return "\n".join(lines) + "\n"


def environment_file(environment: Mapping[str, str]) -> str:
    """/etc/environment, which sshd's PAM session reads; a value is one line."""
    return "".join(f'{name}="{value}"\n' for name, value in sorted(environment.items()))


def read_environment(text: str) -> dict[str, str]:
    """The inverse of `environment_file`."""
    pairs = (line.split("=", 1) for line in text.splitlines())
    return {name: value[1:-1] for name, value in pairs}


def sshd_config(*, listen: str = "", environment: Mapping[str, str] | None = None) -> str:
    """An sshd that admits whoever shows a certificate of the user CA for the user's name.

    `listen` is the one address of the build host, which shares the machine's network: it must not answer elsewhere.
    """
    address = f"ListenAddress {listen}\nPort {BUILD_PORT}\n" if listen else ""
    pairs = " ".join(f'"{name}={_escape(value)}"' for name, value in sorted((environment or {}).items()))
    return f"""\
{address}HostKey /etc/ssh/ssh_host_ed25519_key
TrustedUserCAKeys /etc/ssh/user_ca.pub
PermitRootLogin no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM yes
UseDNS no
PrintMotd no
MaxStartups 200
MaxSessions 200
AcceptEnv LANG LC_* TERM COLORTERM
Subsystem sftp /usr/lib/openssh/sftp-server
{f"SetEnv {pairs}" if pairs else ""}
"""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def known_hosts(spec: Spec, net: Net, host_keys: Mapping[str, str]) -> str:
    """One line a host: its names and addresses, then its public key. `host_keys` maps a host to `TYPE BASE64`."""
    lines = []
    for host in spec.hosts:
        address = net.address(host.octet)
        names = f"[{address}]:{BUILD_PORT}" if host.role == "build" else f"{address},[{address}]:22,{host.name}"
        lines.append(f"{names} {host_keys[host.name]}")
    return "\n".join(lines) + "\n"


def settings_toml(spec: Spec, net: Net, state: str) -> str:
    """What a `sluice.toml` needs to use the cluster."""
    return f"""\
[clusters.{spec.name}]
backend = "rest"
rest_url = "{rest_url(net)}"
jwt_key_file = "{state}/keys/jwt_hs256.key"
files = "sftp"
ssh_host = "{net.address(10)}"
ssh_port = 22
known_hosts_file = "{state}/known_hosts"
user_ca_key_file = "{state}/keys/user_ca"
build_host = "{net.address(1)}"
build_port = {BUILD_PORT}
image_dir = "/home/images"
unix_user = "alice"
operator_user = "oper"
default_partition = "cpu"
account = "research"
"""


def rest_url(net: Net) -> str:
    return f"http://{net.address(2)}:6820"
