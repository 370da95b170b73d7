"""Where volumes lie: below the root of their class, whatever they are called."""

import pytest
from pydantic import ValidationError

from gateway.model.volume import VolumeRequest, VolumeUse, check_below, place_of
from gateway.settings import VolumeClass


@pytest.mark.parametrize("path", ["a", "a/b.c", "data 1/x", ".config/x"])
def test_paths_below_a_root(path: str) -> None:
    assert check_below(path) == path


@pytest.mark.parametrize(
    "path", ["", "/", "/etc", "..", "../x", "a/../../x", "a/..", "a//b", "a/", "./a", "~", "~bob/x", "a\nb", "a\0b"]
)
def test_no_path_leaves_its_root(path: str) -> None:
    with pytest.raises(ValueError, match="below the root"):
        check_below(path)
    with pytest.raises(ValidationError):
        VolumeRequest(path=path)


def test_a_place_is_its_root_for_who_runs_and_the_path_below() -> None:
    assert place_of("/scratch/{user}", "runs/1", user="ann", project=None) == ("/scratch/ann", "/scratch/ann/runs/1")
    assert place_of("/p/{project}/", "x", user="ann", project="physics") == ("/p/physics", "/p/physics/x")
    assert place_of("~", "x", user="ann", project=None) == (".", "x")
    assert place_of("~/volumes", "x", user="ann", project=None) == ("volumes", "volumes/x")


@pytest.mark.parametrize(
    "values",
    [
        {"root": "/scratch"},
        {"root": "/projects", "of": "project"},
        {"root": "/scratch/{user}/../x"},
        {"root": "/a\nb/{user}"},
    ],
)
def test_a_class_that_people_or_projects_would_share_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        VolumeClass.model_validate(values)


def test_where_a_volume_is_in_the_container() -> None:
    assert VolumeUse(name="data").place == "/volumes/data"
    assert VolumeUse(name="data", target="/data").place == "/data"
    for target in ("/proc/x", "data", "/a/../b", "/session"):
        with pytest.raises(ValidationError):
            VolumeUse(name="data", target=target)
