"""The shipped recipes rendered, compared with the scripts beside this file.

After a wanted change: SLUICE_UPDATE_GOLDEN=1 pytest tests/golden, then read the difference before it is committed.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from gateway.core.recipes import open_catalogue
from gateway.model.plan import ClusterDefaults, PinnedImage
from gateway.render.bundle import agent_bundle
from gateway.render.job import JobTarget, render
from gateway.render.plan import make_plan

HERE = Path(__file__).parent
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama-cpp": ("llama-cpp", {}, {}),
    "llama-cpp-own-model": ("llama-cpp", {"model": "~/models/it's, big.gguf", "context": 4096}, {"time": "30m"}),
    "vllm-gpus": (
        "vllm",
        {"model": "/data/llama", "dtype": "bfloat16", "quantisation": "fp8", "extra_arguments": ["--seed=1"]},
        {"gpus": "a100:4", "partition": "gpu", "constraint": "nvlink"},
    ),
    "vllm-mig": (
        "vllm",
        {"model": "/data/llama", "max_model_length": 2048},
        {"gpus": {"count": 1, "type": "a100_1g.10gb", "share": "mig"}},
    ),
    "vllm-cpu": ("vllm", {"model": "models/tiny", "gpus": 0, "cpus": 2}, {}),
    "train-demo": ("train", {"nodes": 2}, {}),
    "train-own": ("train", {"script": "/home/alice/train.py", "arguments": ["--lr", "0.1"], "gpus": 2}, {}),
    "python-batch": (
        "python-batch",
        {"script": "work/run.py", "arguments": ["a b", "--flag"], "inputs": ["/data"]},
        {},
    ),
    "shell-command": ("shell-command", {"command": "echo 'hello' | tr a-z A-Z\ndate"}, {"exclusive": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_script(case: str) -> None:
    recipe, answers, resources = CASES[case]
    found = open_catalogue().get(recipe)
    image = PinnedImage(name=found.image or "", path=f"/images/{found.image}.sif", sha256="5" * 64)
    defaults = ClusterDefaults(partition="cpu", account="research")
    plan = make_plan(found, answers, image=image, resources=resources, defaults=defaults)
    target = JobTarget(session_id="01JD0ZQ8X5T4Y7R3M2N6P9K1VB", client_ca="(the gateway's CA)\n")
    bundle = agent_bundle()
    text = render(plan, target).text
    assert bundle.text in text
    text = text.replace(bundle.text, "(the agent)\n").replace(bundle.sha256, "(its digest)")
    golden = HERE / f"{case}.sh"
    if os.environ.get("SLUICE_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_nothing_is_left_over() -> None:
    assert {path.stem for path in HERE.glob("*.sh")} == set(CASES)
