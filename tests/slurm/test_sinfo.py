"""What sinfo prints, as Slurm 24.11 and 26.05 printed it, and with nodes in trouble."""

import pytest

from gateway.model.inventory import Gpus
from gateway.slurm import sinfo
from gateway.slurm.commands import Unreadable

MARK = "|x|"
PARTITIONS = """cpu*|x|up|x|7-00:00:00|x|1:00:00|x|node[1-2]|x|2|x|0/32/0/32|x|
debug|x|up|x|30:00|x|10:00|x|node[1-2]|x|2|x|0/32/0/32|x|
"""
GRES = "gpu:a100:4,gpu:a100_1g.10gb:2,shard:a100:16,shard:a100_1g.10gb:0"
USED = "gpu:a100:1(IDX:0),gpu:a100_1g.10gb:0(IDX:N/A),shard:a100:0(0/4,0/4,0/4,0/4),shard:a100_1g.10gb:0(0/0,0/0)"
NODE = f"node1|x|debug|x|node1|x|mixed|x|2/14/0/16|x|64000|x|500|x|{GRES}|x|{USED}|x|(null)|x|none|x|\n"


def test_partitions_and_nodes() -> None:
    found = sinfo.parse_inventory(PARTITIONS, NODE + NODE.replace("|x|debug", "|x|cpu"), MARK)
    cpu, debug = found.partitions
    assert (cpu.name, cpu.up, cpu.default, cpu.max_time, cpu.default_time) == ("cpu", True, True, 10080, 60)
    assert (cpu.nodes, cpu.total_nodes, cpu.total_cpus) == ("node[1-2]", 2, 32)
    assert (debug.default, debug.max_time) == (False, 30)
    (node,) = found.nodes
    assert (node.name, node.address, node.partitions) == ("node1", "node1", ("debug", "cpu"))
    assert (node.states, node.available, node.reason, node.features) == (("MIXED",), True, "", ())
    assert (node.cpus, node.cpus_used, node.memory, node.memory_used) == (16, 2, 64000, 500)
    assert Gpus(name="gpu", type="a100", total=4, used=1) in node.gpus


def test_a_partition_without_limits_and_nodes() -> None:
    (part,) = sinfo.parse_inventory("old|x|inact|x|infinite|x|n/a|x||x|0|x|0/0/0/0|x|\n", "", MARK).partitions
    assert (part.up, part.default, part.max_time, part.default_time) == (False, False, None, None)
    assert (part.nodes, part.total_nodes) == ("", 0)


def test_a_partition_that_is_told_in_several_rows_is_one() -> None:
    rows = "p|x|up|x|30:00|x|n/a|x|a1|x|1|x|0/4/0/4|x|\np|x|up|x|30:00|x|n/a|x|b[1-2]|x|2|x|0/16/0/16|x|\n"
    (part,) = sinfo.parse_inventory(rows, "", MARK).partitions
    assert (part.nodes, part.total_nodes, part.total_cpus) == ("a1,b[1-2]", 3, 20)


@pytest.mark.parametrize(
    ("state", "words", "available"),
    [
        ("idle", ("IDLE",), True),
        ("idle+cloud+powered_down", ("IDLE", "CLOUD", "POWERED_DOWN"), True),
        ("mixed+drain", ("MIXED", "DRAIN"), False),
        ("down+not_responding", ("DOWN", "NOT_RESPONDING"), False),
        ("idle*", ("IDLE",), True),
    ],
)
def test_states_of_nodes(state: str, words: tuple[str, ...], *, available: bool) -> None:
    (node,) = sinfo.parse_inventory("", NODE.replace("mixed", state).replace("none|", "bad disk, a|b|"), MARK).nodes
    assert (node.states, node.available, node.reason) == (words, available, "bad disk, a|b")


def test_what_was_not_asked_for_is_not_guessed_at() -> None:
    with pytest.raises(Unreadable):
        sinfo.parse_inventory("", NODE.replace("2/14/0/16", "many"), MARK)
    with pytest.raises(Unreadable):
        sinfo.parse_inventory("sinfo: error", "", MARK)
