"""The catalogue: overriding, redirects, versions, and files that are broken."""

from pathlib import Path
from textwrap import dedent

import pytest

from gateway.core.recipe_file import read
from gateway.core.recipes import Catalogue
from gateway.errors import RecipeInvalid, RecipeNotFound


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(dedent(text).lstrip("\n"))
    return path


def simple(name: str, version: str = "1", more: str = "") -> str:
    return f'name: {name}\nversion: "{version}"\nkind: batch\nimage: base\ncommand: [program]\n{more}\n'


@pytest.mark.parametrize(
    ("text", "line", "column", "field", "said", "hint"),
    [
        ("name: [", 1, 8, "", "flow", ""),
        ("- a\n- b\n", 1, 1, "", "a recipe is a mapping", ""),
        ("", 1, 1, "", "a recipe is a mapping", ""),
        (simple("a", more="parameter: {}"), 6, 1, "parameter", "no field 'parameter'", "Did you mean 'parameters'?"),
        (
            simple("a", more="resources:\n  gpus:\n    cuont: 1"),
            8,
            5,
            "resources.gpus.cuont",
            "no field 'cuont'",
            "Did you mean 'count'? Allowed here: count, type, share.",
        ),
        (
            simple("a", more="parameters:\n  n:\n    type: integr\n"),
            8,
            5,
            "parameters.n.type",
            "'integr' is not allowed",
            "Did you mean 'integer'?",
        ),
        (
            simple("a", more="parameters:\n  n:\n    type: integer\n    default: many\n"),
            7,
            3,
            "parameters.n",
            "not a whole number",
            "",
        ),
        (simple("a", more="parameters:\n  Bad-Name: {type: string}"), 7, 3, "parameters.Bad-Name", "not allowed", ""),
        (simple("a", more="resources:\n  time: soon"), 7, 3, "resources.time", "'soon' is not a time limit", ""),
        (simple("a", more="resources: 5"), 6, 1, "resources", "must be a mapping", "nodes, tasks"),
        (simple("a", more="env:\n  SLUICE_X: a"), 7, 3, "env.SLUICE_X", "set by Sluice", ""),
        (
            simple("a", more="mounts:\n  - source: /d\n    target: /session/x"),
            8,
            5,
            "mounts[0].target",
            "is used by",
            "",
        ),
        (simple("a", more="mounts:\n  - target: /x"), 7, 5, "mounts[0]", "exactly one of `source` and `volume`", ""),
        (simple("a", more='labels: {x: "\\0"}'), 6, 10, "labels.x", "NUL", ""),
        (simple("a", more="service: {}"), 1, 1, "", "goes with `kind: service`", ""),
        ("name: a\nversion: 1.0\n", 2, 1, "version", "must be text", 'Put it in quotes: "1.0"'),
        ("name: a\nname: b\n", 2, 1, "", "duplicate key", ""),
        ('name: a\nversion: "1"\nkind: batch\nimage: base\n', 1, 1, "", "exactly one of `command` and `script`", ""),
        (
            simple("a", more="parameters:\n  threads: {type: integer}").replace(
                "[program]", "[program, '{{ thread }}']"
            ),
            5,
            20,
            "command[1]",
            "'thread' is not a parameter",
            "",
        ),
        (simple("a", more="env:\n  X: '{{ a b }}'"), 7, 3, "env.X", "expected token", ""),
        (simple("a", more="resources:\n  nodes: '{{ n }}'"), 7, 3, "resources.nodes", "'n' is not a parameter", ""),
        (
            simple("a", more="parameters: {t: {type: secret}}\nsecrets: {T: {parameter: t}}\nenv: {X: '{{ t }}'}"),
            8,
            7,
            "env.X",
            "'t' is secret",
            "",
        ),
        (
            simple("a", more="parameters: {n: {type: string, required: false}}").replace(
                "[program]", "[program, 'n={{ n }}']"
            ),
            5,
            20,
            "command[1]",
            "none stands inside a text: write the whole argument as one {{ … }} (with the default answers)",
            "",
        ),
        (
            simple("a", more="parameters: {n: {type: integer, default: 0}}\nresources: {nodes: '{{ n }}'}"),
            7,
            13,
            "resources.nodes",
            "0 is not a whole number of at least 1 (with the default answers)",
            "",
        ),
        (simple("a", more="parameters: {t: {type: secret}}"), 1, 1, "", "used by nothing", ""),
        (
            simple("a", more="parameters: {n: {type: integer}}").replace("command: [program]", "script: echo {{ n }}"),
            5,
            1,
            "script",
            "takes no expressions",
            '"$PARAM_N"',
        ),
    ],
)
def test_a_problem_names_line_column_field_and_what_is_allowed(
    tmp_path: Path, text: str, line: int, column: int, field: str, said: str, hint: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    file = read(path)
    assert file.problems
    problem = file.problems[0]
    assert problem.message.startswith(f"{path}:{line}:{column}: {field}")
    assert said in problem.message
    assert hint in problem.hint
    details = problem.details
    assert (details["file"], details["line"], details["column"], details["field"]) == (str(path), line, column, field)


def test_all_problems_of_a_file_are_told_in_its_order(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", simple("a", more="outputs: [/x]\nlabel: {}\nresources: {nodes: 0}"))
    assert [problem.details["line"] for problem in read(path).problems] == [6, 7, 8]


def test_a_file_that_is_no_text_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "c.yaml").write_text("x" * (2 << 20))
    (tmp_path / "d.yaml").mkdir()
    catalogue = Catalogue([tmp_path])
    assert catalogue.list() == []
    assert {Path(problem.details["file"]).name for problem in catalogue.problems} == {"a.yaml", "c.yaml", "d.yaml"}


def test_a_broken_file_leaves_the_others(tmp_path: Path) -> None:
    write(tmp_path, "good.yaml", simple("good"))
    write(tmp_path, "bad.yaml", "name: bad\nkind: [")
    catalogue = Catalogue([tmp_path])
    assert [recipe.name for recipe in catalogue.list()] == ["good"]
    assert len(catalogue.problems) == 1
    with pytest.raises(RecipeInvalid, match=r"bad\.yaml:2:"):
        catalogue.get("bad")


def test_a_later_folder_overrides_by_name(tmp_path: Path) -> None:
    shipped, site = tmp_path / "shipped", tmp_path / "site"
    write(shipped, "a.yaml", simple("a", "2"))
    write(shipped, "b.yaml", simple("b"))
    write(site, "mine.yaml", simple("a", "1", "title: ours"))
    catalogue = Catalogue([shipped, site])
    assert [(recipe.name, recipe.version, recipe.title) for recipe in catalogue.list()] == [
        ("a", "1", "ours"),
        ("b", "1", ""),
    ]
    assert catalogue.path("a") == site / "mine.yaml"
    with pytest.raises(RecipeNotFound, match="no version '2'"):
        catalogue.get("a", "2")


def test_a_broken_override_does_not_let_the_shipped_recipe_through(tmp_path: Path) -> None:
    shipped, site = tmp_path / "shipped", tmp_path / "site"
    write(shipped, "a.yaml", simple("a"))
    write(site, "a.yaml", simple("a", more="locked: true"))
    catalogue = Catalogue([shipped, site])
    assert catalogue.list() == []
    with pytest.raises(RecipeInvalid, match="no field 'locked'"):
        catalogue.get("a")


def test_the_newest_version_is_the_default(tmp_path: Path) -> None:
    for version in ("1.2", "1.10", "1.9"):
        write(tmp_path, f"a-{version}.yaml", simple("a", version))
    catalogue = Catalogue([tmp_path])
    assert catalogue.get("a").version == "1.10"
    assert catalogue.get("a", "1.9").version == "1.9"
    assert catalogue.versions("a") == ["1.10", "1.9", "1.2"]
    assert [recipe.version for recipe in catalogue.list()] == ["1.10"]
    with pytest.raises(RecipeNotFound) as caught:
        catalogue.get("a", "3")
    assert "1.10, 1.9, 1.2" in caught.value.hint


def test_the_same_version_twice_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", simple("a"))
    write(tmp_path, "b.yaml", simple("a"))
    (problem,) = Catalogue([tmp_path]).problems
    assert "a.yaml has recipe 'a' in version 1 already" in problem.message


def test_redirects_are_followed(tmp_path: Path) -> None:
    write(tmp_path, "old.yaml", 'name: old\nversion: "1"\ndeprecated: renamed\nredirect: new\n')
    write(tmp_path, "new.yaml", simple("new"))
    write(tmp_path, "x.yaml", 'name: x\nversion: "1"\nredirect: y\n')
    write(tmp_path, "y.yaml", 'name: y\nversion: "1"\nredirect: x\n')
    catalogue = Catalogue([tmp_path])
    assert catalogue.get("old").name == "new"
    assert [recipe.name for recipe in catalogue.list()] == ["new"]
    with pytest.raises(RecipeInvalid, match="circle"):
        catalogue.get("x")


def test_the_nearest_name_is_hinted_at(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", simple("llama-cpp"))
    with pytest.raises(RecipeNotFound) as caught:
        Catalogue([tmp_path]).get("lama-cpp")
    assert caught.value.hint == "Did you mean 'llama-cpp'?"


def test_changes_are_seen_and_unchanged_files_are_not_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", simple("a"))
    catalogue = Catalogue([tmp_path])
    first = catalogue.get("a")
    assert catalogue.get("a") is first
    path.write_text(simple("a", more="title: changed"))
    assert catalogue.get("a").title == "changed"
    write(tmp_path, "b.yaml", simple("b"))
    assert len(catalogue.list()) == 2
    path.unlink()
    assert [recipe.name for recipe in catalogue.list()] == ["b"]


def test_a_folder_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    catalogue = Catalogue([tmp_path / "none"])
    assert catalogue.list() == []
    assert "no such folder" in catalogue.problems[0].message
