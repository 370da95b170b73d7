"""Leases are spread over the servers that live, by a rule that every server comes to the same answer with."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.lease import Lease, Server, decide

CLUSTERS = ("a", "b", "c", "d", "e")


def server(name: str, clusters: tuple[str, ...] = CLUSTERS) -> Server:
    return Server(name=name, host="h", pid=1, started=1, place="", clusters=clusters, seconds=10)


def settled(servers: Mapping[str, Server], leases: dict[str, Lease], rounds: int = 20) -> int:
    """Let every server decide in turn until nobody changes anything; the number of rounds."""
    for round_ in range(rounds):
        moved = False
        for me in servers.values():
            free = frozenset(c for c in me.clusters if c not in leases or leases[c].holder not in servers)
            decision = decide(me, servers, leases, free)
            for lease in decision.take:
                assert lease.cluster in free
                leases[lease.cluster] = lease.model_copy(update={"holder": me.name, "term": lease.term + 1})
            for cluster in decision.give:
                assert leases[cluster].holder == me.name
                leases[cluster] = leases[cluster].model_copy(update={"holder": ""})
            moved |= bool(decision.take or decision.give)
        if not moved:
            return round_
    raise AssertionError("it never settles")


@given(st.integers(1, 4), st.dictionaries(st.sampled_from(CLUSTERS), st.sampled_from(["s0", "s1", "s2", "s3", "gone"])))
def test_every_lease_is_held_and_evenly_from_any_beginning(count: int, held: dict[str, str]) -> None:
    servers = {f"s{n}": server(f"s{n}") for n in range(count)}
    leases = {cluster: Lease(cluster=cluster, holder=holder, term=1) for cluster, holder in held.items()}
    settled(servers, leases)
    loads = [sum(lease.holder == name for lease in leases.values()) for name in servers]
    assert sum(loads) == len(CLUSTERS)
    assert max(loads) - min(loads) <= 1


def test_a_newcomer_takes_over_no_more_than_its_share() -> None:
    leases: dict[str, Lease] = {}
    servers = {"s0": server("s0")}
    settled(servers, leases)
    before = {cluster: lease.holder for cluster, lease in leases.items()}
    servers["s1"] = server("s1")
    settled(servers, leases)
    moved = [cluster for cluster, lease in leases.items() if lease.holder != before[cluster]]
    assert len(moved) == 2


def test_a_cluster_goes_only_to_a_server_that_knows_it() -> None:
    leases: dict[str, Lease] = {}
    servers = {"s0": server("s0", ("a",)), "s1": server("s1", ("a", "b", "c"))}
    settled(servers, leases)
    assert {cluster: lease.holder for cluster, lease in leases.items()} == {"a": "s0", "b": "s1", "c": "s1"}
