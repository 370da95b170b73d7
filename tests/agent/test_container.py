"""The Apptainer command and its environment: what is passed, what is not, and how values are written."""

import csv
import io
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.agent import container
from gateway.agent.places import Places

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(str(tmp_path / "session"), 1, str(tmp_path / "runtime"))
    made.open_session()
    (tmp_path / "runtime").mkdir(mode=0o700)
    made.open_runtime()
    return made


def spec(launcher: "list[str] | None" = None, **box: Any) -> dict[str, Any]:
    defaults = {"image": "/i.sif", "gpu": "none", "binds": [], "command": ["run"], "script": None}
    return {"launcher": launcher or [], "container": defaults | box}


def mounts(argv: "list[str]") -> "list[dict[str, str]]":
    """As Apptainer reads them: each is a line of CSV."""
    lines = [argv[at + 1] for at, word in enumerate(argv) if word == "--mount"]
    rows = [next(csv.reader(io.StringIO(line))) for line in lines]
    return [dict(field.partition("=")[::2] for field in row) for row in rows]


@given(st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_path_can_be_mounted(places: Places, name: str) -> None:
    bind = {"source": f"/{name}", "target": f"/x{name}", "read_only": True}
    argv = container.command(spec(binds=[bind]), places, ["run"])
    assert {"type": "bind", "src": f"/{name}", "dst": f"/x{name}", "ro": ""} in mounts(argv)


def test_a_volume_is_mounted_as_the_place_that_it_is_and_never_outside_of_its_root(
    places: Places, tmp_path: Path
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "real").mkdir(parents=True)
    outside.mkdir()
    (root / "link").symlink_to("real")
    (root / "out").symlink_to(outside)
    (root / "up").symlink_to("..")
    root_link = tmp_path / "root-link"
    root_link.symlink_to(root)

    def mounted(path: str, *, below: Path = root, read_only: bool = True) -> str:
        bind = {"source": f"{below}/{path}", "target": "/v", "read_only": read_only, "below": str(below)}
        return container.command(spec(binds=[bind]), places, ["run"])[-3]

    assert f'"src={root}/real"' in mounted("link")
    assert f'"src={root}/real"' in mounted("real", below=root_link)
    for path in ("out", "up", "up/outside", "out/new"):
        with pytest.raises(ValueError, match="out of its root"):
            mounted(path)
    mounted("new/deep", read_only=False)
    assert (root / "new" / "deep").is_dir()
    mounted("missing")
    assert not (root / "missing").exists()


def test_the_session_the_socket_and_room_for_temporary_files_are_there(places: Places) -> None:
    argv = container.command(spec(), places, ["run", "--help"])
    assert {mount["dst"]: mount["src"] for mount in mounts(argv)} == {
        "/session": places.work,
        "/run/sluice": places.shared,
        "/tmp": places.tmp,
        "/var/tmp": places.var_tmp,
    }
    assert argv[-3:] == ["/i.sif", "run", "--help"]
    assert {"--cleanenv", "--no-eval", "--contain", "--pid"} <= set(argv)


def test_devices_only_as_asked(places: Places) -> None:
    assert not {"--nv", "--rocm"} & set(container.command(spec(), places, []))
    assert "--nv" in container.command(spec(gpu="nvidia"), places, [])
    assert "--rocm" in container.command(spec(gpu="amd"), places, [])


def test_tasks_share_memory_and_processes(places: Places) -> None:
    argv = container.command(spec(launcher=["srun"]), places, [])
    assert not {"--contain", "--pid"} & set(argv)


def test_what_of_the_jobs_environment_is_passed() -> None:
    outer = {
        "PATH": "/bin",
        "SLURM_PROCID": "3",
        "SLURM_JWT": "token",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "ROCR_VISIBLE_DEVICES": "2",
        "AWS_SECRET_ACCESS_KEY": "x",
        "APPTAINER_BIND": "/etc",
        "APPTAINERENV_X": "1",
        "SINGULARITYENV_Y": "1",
        "APPTAINER_CACHEDIR": "/cache",
    }
    made = container.environment(outer, {"A": "1,2"}, {"SLUICE_SESSION": "s"})
    inner = {name.removeprefix("APPTAINERENV_") for name in made if name.startswith("APPTAINERENV_")}
    assert inner == {"SLURM_PROCID", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "A", "SLUICE_SESSION"}
    assert made["APPTAINERENV_A"] == "1,2"
    assert made["APPTAINER_CACHEDIR"] == "/cache"
    assert "APPTAINER_BIND" not in made


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40, deadline=None
)
@given(first=TEXT, second=TEXT)
@example(first="a\r\nb'\\''$(id)\x80\x81\x88", second="")
def test_values_beyond_plain_text_travel_through_a_shell(places: Places, shell: str, first: str, second: str) -> None:
    values = {"FIRST": first, "SECOND": second}
    show = ["/usr/bin/env", "-0"]
    argv = container.payload(spec(command=show), places, values)
    environment = {
        name.removeprefix("APPTAINERENV_"): value
        for name, value in container.environment({}, values, {}).items()
        if name.startswith("APPTAINERENV_")
    }
    if argv != show:
        assert argv == ["/bin/sh", "/run/sluice/env.sh", *show]
        file = Path(places.shared, "env.sh")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        argv = [shell, str(file), *show]
    done = subprocess.run(argv, env=environment, capture_output=True, check=True).stdout
    got = dict(os.fsdecode(line).split("=", 1) for line in done.split(b"\0") if line)
    assert {name: got[name] for name in values} == values


@pytest.mark.parametrize(
    ("script", "program"),
    [
        ("#!/usr/bin/env python3\nx", ["/usr/bin/env", "python3"]),
        ("#! /bin/bash -e -u\n", ["/bin/bash", "-e -u"]),
        ("echo", ["/bin/sh", "-c"]),
        ("#!\n", ["/bin/sh", "-c"]),
    ],
)
def test_who_runs_a_script(places: Places, script: str, program: "list[str]") -> None:
    argv = container.payload(spec(command=None, script=script), places, {})
    assert argv[: len(program)] == program
    assert argv[-1] == "/run/sluice/script"
    assert Path(places.shared, "script").read_text() == script
