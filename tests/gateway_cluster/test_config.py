"""The rendered configuration of a cluster's hosts."""

import tomllib

from gateway.cluster import config
from gateway.cluster.spec import DEFAULT_GPUS, Net, Spec, parse_gpus

NET = Net(3, "00112233445566778899")


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_slurm_conf_of_the_default_cluster() -> None:
    text = config.slurm_conf(Spec("my-lab"))
    assert "ClusterName=my_lab\n" in text
    assert "GresTypes=gpu,shard\n" in text
    assert "AccountingStorageTRES=gres/gpu,gres/gpu:a100,gres/gpu:a100_1g.10gb,gres/shard\n" in text
    (node,) = lines(text, "NodeName=")
    assert node.startswith("NodeName=node[1-2] ")
    assert " Gres=gpu:a100:4,gpu:a100_1g.10gb:2,shard:16 " in node
    assert [line.split()[0] for line in lines(text, "PartitionName=")[1:]] == [
        "PartitionName=cpu",
        "PartitionName=gpu",
        "PartitionName=debug",
    ]


def test_slurm_conf_without_gpus_and_with_one_node() -> None:
    text = config.slurm_conf(Spec("demo", nodes=1, gpus="none"))
    assert "Gres" not in text
    assert "gres/" not in text
    assert lines(text, "NodeName=")[0].startswith("NodeName=node1 ")


def test_gres_conf_names_a_file_for_every_gpu() -> None:
    text = config.gres_conf(Spec("demo", gpus="a100:2,h100:1,a100_1g.10gb:2,shard:6"))
    assert text.splitlines() == [
        "AutoDetect=off",
        "Name=gpu Type=a100 File=/dev/nvidia[0-1]",
        "Name=gpu Type=h100 File=/dev/nvidia2",
        "Name=gpu Type=a100_1g.10gb MultipleFiles=/dev/nvidia3,/dev/nvidia-caps/nvidia-cap0",
        "Name=gpu Type=a100_1g.10gb MultipleFiles=/dev/nvidia4,/dev/nvidia-caps/nvidia-cap1",
        "Name=shard Count=2 File=/dev/nvidia0",
        "Name=shard Count=2 File=/dev/nvidia1",
        "Name=shard Count=2 File=/dev/nvidia2",
    ]


def test_every_file_of_gres_conf_is_made() -> None:
    made = {f"/dev/{name}" for name, _, _ in config.devices(parse_gpus(DEFAULT_GPUS))}
    assert made == {
        "/dev/nvidiactl",
        *(f"/dev/nvidia{i}" for i in range(6)),
        "/dev/nvidia-caps/nvidia-cap0",
        "/dev/nvidia-caps/nvidia-cap1",
    }
    assert config.devices(()) == []


def test_known_hosts_has_the_build_host_by_its_port() -> None:
    spec = Spec("demo", nodes=1)
    text = config.known_hosts(spec, NET, {host.name: f"ssh-ed25519 {host.name}" for host in spec.hosts})
    assert "10.77.3.10,[10.77.3.10]:22,login ssh-ed25519 login\n" in text
    assert "[10.77.3.1]:2222 ssh-ed25519 build\n" in text
    assert len(text.splitlines()) == len(spec.hosts)


def test_sshd_of_the_build_host_listens_on_the_bridge_alone() -> None:
    text = config.sshd_config(listen="10.77.3.1", environment={"A": 'say "x" \\', "B": "file:///a file:///b"})
    assert lines(text, "ListenAddress") == ["ListenAddress 10.77.3.1"]
    assert lines(text, "Port") == ["Port 2222"]
    assert lines(text, "SetEnv") == ['SetEnv "A=say \\"x\\" \\\\" "B=file:///a file:///b"']
    assert lines(config.sshd_config(), "ListenAddress") == lines(config.sshd_config(), "SetEnv") == []


def test_environment_file_reads_back() -> None:
    environment = {"PATH": "/bin", "PIP_EXTRA_INDEX_URL": "file:///a=b file:///c", "EMPTY": ""}
    assert config.read_environment(config.environment_file(environment)) == environment


def test_settings_are_toml() -> None:
    settings = tomllib.loads(config.settings_toml(Spec("my-lab"), NET, "/state"))
    assert settings == {
        "clusters": {
            "my-lab": {
                "backend": "rest",
                "rest_url": "http://10.77.3.2:6820",
                "jwt_key_file": "/state/keys/jwt_hs256.key",
                "files": "sftp",
                "ssh_host": "10.77.3.10",
                "ssh_port": 22,
                "known_hosts_file": "/state/known_hosts",
                "user_ca_key_file": "/state/keys/user_ca",
                "build_host": "10.77.3.1",
                "build_port": 2222,
                "image_dir": "/home/images",
                "unix_user": "alice",
                "operator_user": "oper",
                "default_partition": "cpu",
                "account": "research",
            }
        }
    }
