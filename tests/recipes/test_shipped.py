"""The shipped recipes, and the published schemas."""

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from gateway.core.recipes import open_catalogue
from gateway.data import folder
from gateway.model.plan import PinnedImage, Plan
from gateway.model.recipe import Recipe, describe, digest, json_schema, parameters_schema
from gateway.render.plan import make_plan

SCHEMA = Path(__file__).parents[2] / "docs/reference/recipe.schema.json"
FILES = sorted(folder("recipes").glob("*.yaml"))
IMAGE = PinnedImage(name="image", path="/images/image.sif", sha256="1" * 64)


def plan(name: str, answers: dict[str, object], **resources: object) -> Plan:
    return make_plan(open_catalogue().get(name), answers, image=IMAGE, resources=resources)


def options(command: tuple[str, ...] | None) -> dict[str, str]:
    """`--name value` pairs."""
    words = command or ()
    return {word: value for word, value in zip(words, [*words[1:], ""], strict=True) if word.startswith("--")}


def test_there_are_no_problems() -> None:
    catalogue = open_catalogue()
    assert list(catalogue.problems) == []
    names = [recipe.name for recipe in catalogue.list()]
    assert names == ["code-server", "jupyter", "llama-cpp", "python-batch", "shell-command", "train", "vllm"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_helps_its_user(path: Path) -> None:
    recipe = open_catalogue().get(path.stem)
    assert recipe.title
    assert recipe.description
    for name, parameter in recipe.parameters.items():
        assert parameter.title or parameter.help, name
        if parameter.default is None:
            assert parameter.help, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_published_schema_takes_the_shipped_recipes(path: Path) -> None:
    jsonschema.validate(YAML(typ="safe", pure=True).load(path), json_schema(), jsonschema.Draft202012Validator)
    schema = parameters_schema(open_catalogue().get(path.stem))
    jsonschema.Draft202012Validator.check_schema(schema)


def test_the_published_schema_is_the_models() -> None:
    """After a change of the model: sluice recipe schema > docs/reference/recipe.schema.json."""
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json.loads(SCHEMA.read_text()) == json_schema()


def test_the_schema_refuses_what_the_model_refuses() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    base = {"name": "a", "version": "1", "kind": "batch", "image": "base", "command": ["x"]}
    validator.validate(base)
    for wrong in ({"name": "A"}, {"kind": "job"}, {"resources": {"nodes": 0}}, {"extra": 1}, {"outputs": "x"}):
        assert not validator.is_valid(base | wrong), wrong


def test_every_field_is_described() -> None:
    fields = describe()
    assert len({field.field for field in fields}) == len(fields)
    assert [field.field for field in fields if not field.help or not field.type] == []
    assert {"resources.gpus.count", "service.probe.kind", "parameters.<name>.mount"} <= {f.field for f in fields}


def test_the_digest_follows_the_meaning_not_the_writing() -> None:
    one = Recipe.model_validate({"name": "a", "version": "1", "kind": "batch", "image": "b", "command": ["x"]})
    two = Recipe.model_validate({**one.model_dump(), "resources": {"nodes": 1}})
    other = Recipe.model_validate({**one.model_dump(), "resources": {"nodes": 2}})
    assert digest(one) == digest(two) != digest(other)


def test_llama_cpp_serves_its_demo_model() -> None:
    made = plan("llama-cpp", {})
    assert made.mounts == ()
    assert made.service is not None
    assert made.service.model == options(made.command)["--alias"] == "tiny"
    own = plan("llama-cpp", {"model": "~/big.gguf", "threads": 8})
    assert (options(own.command)["--model"], own.resources.cpus) == ("/inputs/model/big.gguf", 8)
    assert options(own.command)["--alias"] == "big"


def test_vllm_on_gpus_and_without() -> None:
    four = plan("vllm", {"model": "/m/llama"}, gpus="a100:4")
    said = options(four.command)
    assert (said["--tensor-parallel-size"], said["--dtype"]) == ("4", "auto")
    assert "--enforce-eager" not in said
    assert "VLLM_CPU_KVCACHE_SPACE" not in four.env
    none = plan("vllm", {"model": "/m/llama", "gpus": 0})
    said = options(none.command)
    assert (said["--tensor-parallel-size"], said["--dtype"]) == ("1", "float32")
    assert "--enforce-eager" in said
    assert none.env["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert none.resources.gpus.gres is None


@pytest.mark.parametrize("extra", ["--allowed-local-media-path=/", "--seed=1 --x", "--host=0.0.0.0", "seed"])
def test_vllm_takes_further_options_from_the_list_only(extra: str) -> None:
    with pytest.raises(ValueError, match="does not match"):
        open_catalogue().get("vllm").parameters["extra_arguments"].coerce([extra])


def test_train_asks_for_one_task_a_node() -> None:
    made = plan("train", {"nodes": 3, "gpus": 2, "script": "~/t.py", "arguments": ["--lr", "0.1"]})
    assert (made.resources.nodes, made.resources.tasks, made.resources.gpus.gres) == (3, None, "gpu:2")
    assert made.env["PARAM_SCRIPT"] == "/inputs/script/t.py"
    assert made.env["PARAM_ARGUMENTS_1"] == "0.1"


def test_batch_recipes_pass_arguments_on() -> None:
    made = plan("python-batch", {"script": "run.py", "arguments": ["a b", "-c"], "inputs": ["/d/x", "/e/x"]})
    assert made.command == ("python3", "-u", "/inputs/script/run.py", "a b", "-c")
    assert [mount.target for mount in made.mounts] == [
        "/inputs/script/run.py",
        "/inputs/inputs/0/x",
        "/inputs/inputs/1/x",
    ]
    assert plan("shell-command", {"command": "a | b"}).command == ("/bin/bash", "-c", "a | b")
