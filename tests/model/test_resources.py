"""Resources, and GPUs as Slurm's GRES."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.model.resources import Gpus, ResourceRequest, Resources


@pytest.mark.parametrize(
    ("fields", "gres"),
    [
        ({}, None),
        ({"count": 0, "type": "a100"}, None),
        ({"count": 2}, "gpu:2"),
        ({"count": "2", "type": "a100"}, "gpu:a100:2"),
        ({"count": 1, "type": "a100_1g.10gb", "share": "mig"}, "gpu:a100_1g.10gb:1"),
        ({"count": 4, "share": "shard"}, "shard:4"),
        ({"count": 4, "type": "a100", "share": "shard"}, "shard:a100:4"),
        ({"count": 50, "share": "mps"}, "mps:50"),
    ],
)
def test_gpus_as_slurm_writes_them(fields: dict[str, Any], gres: str | None) -> None:
    assert Gpus.model_validate(fields).gres == gres


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"count": 1, "type": "a100", "share": "mig"}, "MIG type"),
        ({"count": 1, "share": "all"}, "none, mig, shard, mps"),
        ({"count": -1}, "whole number"),
        ({"count": 1, "type": "a100:8 --exclusive"}, "GPU type"),
    ],
)
def test_gpus_that_cannot_be(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Gpus.model_validate(fields)


def test_resources_take_what_people_write() -> None:
    asked = Resources.model_validate(
        {"nodes": "2", "memory": "16G", "time": "2h", "partition": "gpu,debug", "constraint": "a100&ib|(x*2)"}
    )
    assert (asked.nodes, asked.memory, asked.time, asked.exclusive) == (2, 16384, 120, False)
    assert Resources.model_validate(asked.model_dump(mode="json")) == asked


@pytest.mark.parametrize("field", ["partition", "account", "qos", "constraint"])
@given(value=st.text(alphabet=" \n\t\r\"'\\#$`;<>\0=-", min_size=1))
def test_no_value_can_be_more_than_one_word(field: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Resources.model_validate({field: value})
    with pytest.raises(ValidationError):
        Resources.model_validate({field: f"gpu{value} x"})


def test_fewer_tasks_than_nodes_are_refused() -> None:
    with pytest.raises(ValidationError, match="cannot use 3 nodes"):
        Resources(nodes=3, tasks=2)


def test_a_recipe_may_ask_by_expression_but_not_by_nonsense() -> None:
    request = ResourceRequest.model_validate({"nodes": "{{ nodes }}", "gpus": {"count": "{{ gpus }}"}, "time": "1h"})
    assert (request.nodes, request.gpus.count, request.time) == ("{{ nodes }}", "{{ gpus }}", 60)
    with pytest.raises(ValidationError, match="whole number"):
        ResourceRequest.model_validate({"nodes": "many"})
    with pytest.raises(ValidationError, match="time limit"):
        ResourceRequest.model_validate({"time": "soon"})
