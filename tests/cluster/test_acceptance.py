"""The big programs in real jobs: vLLM answers the OpenAI SDK and its own benchmark, PyTorch trains on two nodes."""

import re
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.product import Product

pytestmark = [pytest.mark.cluster, pytest.mark.acceptance, pytest.mark.timeout(1800)]

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


def build(product: Product, image: str) -> None:
    done = product.sluice("image", "build", image, within=1200)
    assert done.returncode == 0, done.stderr


def vllm_bench_serve(product: Product, *words: str) -> str:
    """The benchmark of vLLM as it is in the image, run by a user on the machine where the gateway is."""
    image, told = product.json("image", "show", "vllm")["path"], product.json("env")
    environment = ["--env", f"OPENAI_API_KEY={told['OPENAI_API_KEY']}", "--env", "HF_HUB_OFFLINE=1"]
    load = ["--dataset-name", "random", "--random-input-len", "64", "--random-output-len", "16"]
    load += ["--num-prompts", "20", "--max-concurrency", "4"]
    where = ["--base-url", product.url, "--model", "tiny", "--tokenizer", "/opt/models/tiny"]
    command = ["apptainer", "exec", *environment, image, "vllm", "bench", "serve", *where, *load, *words]
    return product.cluster.exec("build", command, user="alice").stdout


def test_vllm_answers_the_openai_sdk_and_its_own_benchmark(product: Product, tmp_path: Path) -> None:
    build(product, "vllm")
    words = ["-p", "model=/opt/models/tiny", "-p", "gpus=0", "--name", "big", "--wait", "--timeout", "600"]
    done = product.sluice("launch", "vllm", *words, within=700)
    assert done.returncode == 0, done.stderr + product.sluice("logs", "big").stdout
    told = product.json("env")
    with openai.OpenAI(base_url=told["OPENAI_BASE_URL"], api_key=told["OPENAI_API_KEY"]) as client:
        chunks = list(
            client.chat.completions.create(
                model="tiny", messages=HELLO, max_tokens=8, stream=True, stream_options={"include_usage": True}
            )
        )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    for backend, endpoint in (("openai-chat", "/v1/chat/completions"), ("openai", "/v1/completions")):
        said = vllm_bench_serve(product, "--backend", backend, "--endpoint", endpoint)
        assert re.search(r"Successful requests: +20\b", said), said
        assert re.search(r"Failed requests: +0\b", said), said
        assert re.search(r"Total generated tokens: +320\b", said), said
    load = ("--requests", "20", "--output-tokens", "16", "--prompt-tokens", "64")
    report = product.json("bench", "big", *load, "--output", str(tmp_path / "report"))
    figures = report["stages"][0]["figures"]
    assert (figures["succeeded"], figures["output_tokens"], figures["tokens_by"]) == (20, 320, "usage")
    assert product.sluice("stop", "big", "--wait").returncode == 0
    left = product.cluster.exec("node1", ["pgrep", "-u", "alice", "-f", "vllm"], check=False)
    assert (left.returncode, left.stdout) == (1, ""), "vLLM left processes behind"


def test_a_training_runs_on_two_nodes(product: Product) -> None:
    build(product, "pytorch")
    done = product.sluice("launch", "train", "--nodes", "2", "--name", "two", "--wait", within=400)
    assert done.returncode == 0, done.stderr
    lines = [line for line in product.sluice("logs", "two").stdout.splitlines() if line.startswith("epoch")]
    losses = [float(line.split()[3]) for line in lines]
    assert len(losses) > 1
    assert losses[-1] < losses[0]
    assert all(line.endswith("processes 2") for line in lines)
