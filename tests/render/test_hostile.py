"""Rendered scripts are run with hostile values, and what the program received is compared with what was given.

bash runs the script and the real agent starts the payload. Apptainer itself is stood in for by a small program that
does with the agent's argument list and environment what Apptainer documents; tests/recipes/test_on_cluster.py runs the
same values through the real one.
"""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.errors import ParameterInvalid
from gateway.model.plan import Plan
from gateway.model.recipe import Recipe
from gateway.render.job import JobTarget, render

MakeRecipe = Callable[..., Recipe]
MakePlan = Callable[..., Plan]

NASTY = [
    "",
    " ",
    "'",
    '"',
    "''\"\"",
    "$(touch pwned)",
    "`touch pwned`",
    "${HOME}",
    "$PARAM_ONE",
    "\\",
    "\\n",
    "\n",
    "\r\n",
    "a\nSLUICE_SPEC\ntouch pwned\n",
    "\nSLUICE_AGENT\n",
    "\n#SBATCH --uid=0\n",
    "#SBATCH --exclusive",
    "-x",
    "--bind=/etc:/etc",
    "--",
    "-",
    "a,b,c",
    "a:b:ro",
    "a=b",
    "a;b&&c|d>e<f",
    "*",
    "~",
    "~/x",
    "!!",
    "%s%n",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "{# note #}",
    "\t\v\f\x1b[31m\x7f",
    "ünïcödé 漢字 🎛",
    "\u2028\u2029\u0085",
    "\ufeff",
    "x" * 5000,
]
TEXTS = st.sampled_from(NASTY) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200
)

APPTAINER = """#!{python}
import csv, os, sys

arguments, binds = sys.argv[1:], {{}}
options = {{"--pwd": 1, "--home": 1, "--mount": 1}}
position = 0
while arguments[position] == "exec" or arguments[position].startswith("-"):
    word = arguments[position]
    if word == "--mount":
        (fields,) = csv.reader([arguments[position + 1]])
        found = dict(field.partition("=")[::2] for field in fields)
        binds[found["dst"]] = found["src"]
    position += 1 + options.get(word, 0)
payload = arguments[position + 1 :]
run = binds["/run/sluice"]
payload = [word.replace("/run/sluice", run, 1) if word.startswith("/run/sluice/") else word for word in payload]
prefix = "APPTAINERENV_"
given = {{os.fsdecode(name): value for name, value in os.environb.items()}}
environment = {{name[len(prefix):]: value for name, value in given.items() if name.startswith(prefix)}}
environment["BINDS"] = os.fsencode(repr(sorted(binds.items())))
os.execvpe(payload[0], payload, {{**environment, "PATH": os.environb[b"PATH"]}})
"""

RECORDER = """
import json, os, sys

words = [os.fsencode(word).decode() for word in sys.argv[2:]]
environment = {os.fsdecode(n): v.decode() for n, v in os.environb.items()}
with open(sys.argv[1], "w") as file:
    json.dump([words, environment], file)
"""


class Received(NamedTuple):
    arguments: list[str]
    environment: dict[str, str]
    work: Path


Run = Callable[..., Received]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_recipe: MakeRecipe, plan_of: MakePlan, image: Any) -> Run:
    """Render a recipe, run the script as Slurm would, and tell what its program received."""
    home = tmp_path_factory.mktemp("hostile")
    (home / "bin").mkdir()
    stand_in = home / "bin/apptainer"
    stand_in.write_text(APPTAINER.format(python=sys.executable))
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    recorder, record, sif = home / "recorder.py", home / "record.json", home / "image.sif"
    recorder.write_text(RECORDER)
    sif.touch()
    count = 0

    def runs(answers: dict[str, object], *, extra: dict[str, str] | None = None, **fields: Any) -> Received:
        nonlocal count
        count += 1
        program = [sys.executable, "-I", "-X", "utf8", str(recorder), str(record)]
        if "script" in fields:
            fields["script"] = fields["script"].replace("RECORD", " ".join(f"'{word}'" for word in program))
        else:
            fields["command"] = [*program, *fields["command"]]
        plan = plan_of(make_recipe(**fields), answers).model_copy(
            update={"image": image.model_copy(update={"path": str(sif)})}
        )
        target = JobTarget(session_id=f"T{count}", session_root=str(home / "it's a root"))
        environment = {"PATH": f"{home / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(home), "LC_ALL": "C"}
        record.unlink(missing_ok=True)
        script = home / "slurm_script"
        script.write_bytes(render(plan, target).text.encode())
        done = subprocess.run(["/bin/bash", script], env=environment | (extra or {}), cwd=home, check=False)
        session = home / "it's a root" / f"T{count}"
        assert done.returncode == 0, (session / "job-1.log").read_text()
        assert not list(home.rglob("pwned"))
        arguments, received = json.loads(record.read_text())
        return Received(arguments, received, session / "work")

    return runs


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(one=TEXTS, many=st.lists(TEXTS, max_size=30))
@example(one="a\nb", many=NASTY)
def test_every_value_arrives_as_one_argument(run: Run, one: str, many: list[str]) -> None:
    received = run(
        {"one": one, "many": many},
        parameters={"one": {"type": "string"}, "many": {"type": "string", "multiple": True}},
        command=["{{ one }}", "--one={{ one }}", "{{ many }}", "end"],
        env={"ONE": "{{ one }}", "PAIR": "<{{ one }}>"},
    )
    assert received.arguments == [one, f"--one={one}", *many, "end"]
    assert (received.environment["ONE"], received.environment["PAIR"]) == (one, f"<{one}>")


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(one=TEXTS, many=st.lists(TEXTS, max_size=10))
@example(one="$(touch pwned)", many=NASTY)
def test_a_script_gets_every_value_unchanged(run: Run, one: str, many: list[str]) -> None:
    received = run(
        {"one": one, "many": many},
        parameters={"one": {"type": "string"}, "many": {"type": "string", "multiple": True}},
        script='#!/bin/bash\nset -eu\nRECORD "$PARAM_ONE" "$PARAM_MANY_COUNT"\n',
    )
    assert received.arguments == [one, str(len(many))]
    assert [received.environment[f"PARAM_MANY_{place}"] for place in range(len(many))] == many


PATHS = st.text(st.characters(exclude_characters="\0\n\r/", exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda name: name not in {".", ".."} and not name.startswith("~")
)


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(name=PATHS)
@example(name="a,b:ro 'c' \"d\" $(touch pwned) =src")
def test_a_mounted_path_stays_one_mount(run: Run, name: str) -> None:
    received = run(
        {"data": f"/data/{name}"}, parameters={"data": {"type": "path", "mount": True}}, command=["{{ data }}"]
    )
    assert received.arguments == [f"/inputs/data/{name}"]
    assert repr((f"/inputs/data/{name}", f"/data/{name}")) in received.environment["BINDS"]


@pytest.mark.parametrize("value", ["\0", "a\0b", "a\0", "\ud800"])
def test_what_no_program_can_be_given_is_refused(make_recipe: MakeRecipe, plan_of: MakePlan, value: str) -> None:
    recipe = make_recipe(parameters={"one": {"type": "string"}}, command=["p", "{{ one }}"])
    with pytest.raises(ParameterInvalid, match=r"NUL|surrogate"):
        plan_of(recipe, {"one": value})


@pytest.mark.parametrize("locale", ["POSIX", "en_US.ISO-8859-1", "nonsense"])
def test_the_nodes_locale_changes_nothing(run: Run, locale: str) -> None:
    value = "ünïcödé 漢字"
    received = run(
        {"one": value}, parameters={"one": {"type": "string"}}, command=["{{ one }}"], extra={"LC_ALL": locale}
    )
    assert received.arguments == [value]


def test_the_work_folder_is_the_users_alone(run: Run) -> None:
    received = run({}, command=["x"])
    for place in (received.work, received.work.parent):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    for file in received.work.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
