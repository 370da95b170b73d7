"""`sluice project`: what is said is changed, and nothing else."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.cli.conftest import Run


def test_what_is_not_said_of_a_cluster_stays(sluice: "Run") -> None:
    def changed(*words: str) -> Any:
        view = json.loads(sluice("project", "set", "physics", *words, "--json").stdout)
        assert view == json.loads(sluice("project", "show", "physics", "--json").stdout)
        return view

    def on(cluster: str, account: str, qos: list[str], partitions: list[str]) -> dict[str, Any]:
        return {"cluster": cluster, "account": account, "qos": qos, "partitions": partitions}

    made = ("--account", "c=phys", "--qos", "c=normal,long", "--partitions", "c=cpu,gpu", "--label", "a=1")
    sluice("project", "create", "physics", *made)
    assert changed("--account", "c=new")["shares"] == [on("c", "new", ["normal", "long"], ["cpu", "gpu"])]
    assert changed("--partitions", "c=gpu")["shares"] == [on("c", "new", ["normal", "long"], ["gpu"])]
    assert changed("--qos", "c=")["shares"] == [on("c", "new", [], ["gpu"])]
    assert changed("--title", "Physics")["shares"] == [on("c", "new", [], ["gpu"])]
    assert "no account is named for other" in sluice("project", "set", "physics", "--qos", "other=x", code=2).stderr


def test_labels_are_replaced_or_taken_away(sluice: "Run") -> None:
    sluice("project", "create", "physics", "--label", "a=1", "--label", "b=2")
    for words, labels in (
        (("--title", "x"), {"a": "1", "b": "2"}),
        (("--label", "c=3"), {"c": "3"}),
        (("--no-labels",), {}),
    ):
        assert json.loads(sluice("project", "set", "physics", *words, "--json").stdout)["labels"] == labels
    assert "exclude each other" in sluice("project", "set", "physics", "--no-labels", "--label", "a=1", code=2).stderr
