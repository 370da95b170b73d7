"""The guide's first recipe is one."""

import re
from pathlib import Path

import pytest

from gateway.core.recipe_file import read

GUIDE = Path(__file__).parents[2] / "docs/guides/writing-recipes.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
BASE = 'name: a\nversion: "1"\nimage: base\n'


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_example_can_stand_in_a_recipe(tmp_path: Path, block: str) -> None:
    path = tmp_path / "a.yaml"
    names = set(re.findall(r"^(\w+):", block, re.MULTILINE))
    if "name" in names:
        path.write_text(block)
    else:
        head = BASE if "kind" in names else f"{BASE}kind: batch\n"
        known = "" if "parameters" in names else "parameters: {nodes: {type: integer}, alias: {type: string}}\n"
        program = "" if {"command", "script"} & names else "command: [program]\n"
        path.write_text(head + known + program + block)
    assert [str(problem) for problem in read(path).problems] == []
