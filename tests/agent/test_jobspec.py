"""The job spec: what it accepts, what it refuses, and that it survives JSON."""

import pytest
from pydantic import ValidationError

from gateway.model.jobspec import Container, JobSpec, Service, TcpProbe

IMAGE = "/images/x.sif"


def batch(**changes: object) -> JobSpec:
    values: dict[str, object] = {
        "session": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "kind": "batch",
        "directory": ".sluice/sessions/x",
        "container": Container(image=IMAGE, command=("true",)),
    }
    return JobSpec.model_validate(values | changes)


def test_a_spec_survives_json() -> None:
    spec = batch(kind="service", service=Service(probe=TcpProbe()), client_ca="PEM", launcher=("srun", "--ntasks=2"))
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "service"},
        {"service": {"probe": {"kind": "tcp"}}},
        {"directory": "~/x"},
        {"directory": "a/../../b"},
        {"directory": ""},
        {"directory": "a:b"},
        {"session": "../x"},
        {"version": 2},
        {"unknown": 1},
        {"comment_field": "admin_comment"},
        {"secrets": ["HOME"]},
        {"secrets": ["not a name"]},
        {"container": {"image": IMAGE}},
        {"container": {"image": IMAGE, "command": ["a"], "script": "b"}},
        {"container": {"image": IMAGE, "command": []}},
        {"container": {"image": "relative.sif", "command": ["a"]}},
        {"container": {"image": IMAGE, "command": ["a\0b"]}},
        {"container": {"image": IMAGE, "command": ["a"], "verify": True}},
        {"container": {"image": IMAGE, "command": ["a"], "env": {"SLURM_JOB_ID": "1"}}},
        {"container": {"image": IMAGE, "command": ["a"], "env": {"A-B": "1"}}},
        {"container": {"image": IMAGE, "command": ["a"], "env": {"APPTAINERENV_X": "1"}}},
        {"container": {"image": IMAGE, "command": ["a"], "binds": [{"source": "/a", "target": "b"}]}},
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        batch(**changes)
