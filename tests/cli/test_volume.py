"""`sluice volume`: named, listed, mounted by name, forgotten."""

import json
from typing import Any

import pytest

from tests.live import Live


def test_a_volume_is_named_listed_and_forgotten(sluice: Any) -> None:
    assert (
        "corpus is data/corpus, class home, on c" in sluice("volume", "add", "corpus", "--path", "data/corpus").stderr
    )
    [view] = json.loads(sluice("volume", "list", "--json").stdout)
    assert (view["name"], view["cluster"], view["path"], view["project"]) == ("corpus", "c", "data/corpus", None)
    assert "data/corpus" in sluice("volume", "list").stdout
    assert "still there" in sluice("volume", "remove", "corpus").stderr
    assert "no volume 'corpus'" in sluice("volume", "remove", "corpus", code=3).stderr
    assert "There are no volumes" in sluice("volume", "list").output


def test_what_is_no_place_is_refused(sluice: Any) -> None:
    sluice("volume", "add", "x", "--path", "../other", code=2)
    assert "no volume class" in sluice("volume", "add", "x", "--class", "scratch", code=2).stderr
    sluice("volume", "add", "x", "--project", "nosuch", "--class", "home", code=2)


def test_launch_mounts_volumes_by_name(sluice: Any, gateway: Live) -> None:
    del gateway
    sluice("volume", "add", "corpus")
    script = sluice("launch", "count", "--volume", "corpus:/data:ro", "--dry-run").stdout
    bind = {"source": "corpus", "target": "/data", "read_only": True, "below": "."}
    assert json.dumps(bind)[1:-1].split(", ")[0] in script
    assert '"below": "."' in script
    assert "no volume 'other'" in sluice("launch", "count", "--volume", "other", "--dry-run", code=3).stderr


@pytest.mark.parametrize("word", ["corpus:data", ":/data", "corpus:/a:/b", "corpus:/data:rx"])
def test_a_volume_that_cannot_be_read(sluice: Any, word: str) -> None:
    assert "NAME:/PATH" in sluice("launch", "count", "--volume", word, code=2).stderr
