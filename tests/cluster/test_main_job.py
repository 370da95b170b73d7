"""The main job, end to end, as a user does it: recipe, Slurm, Apptainer, ready session, answer; and how it fails."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.product import Product

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("images")]

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def model(product: Product, images: None) -> Iterator[dict[str, Any]]:
    """A running llama.cpp session."""
    del images
    done = product.sluice("launch", "llama-cpp", "--name", "main", "--wait")
    assert done.returncode == 0, done.stderr
    yield product.json("show", "main")
    done = product.sluice("stop", "main", "--wait")
    assert done.returncode == 0, done.stderr


def ended(product: Product, name: str) -> dict[str, Any]:
    """The session after its end."""
    product.sluice("wait", name, "--for", "ended")
    found: dict[str, Any] = product.json("show", name)
    return found


def test_a_question_is_answered(product: Product, model: dict[str, Any]) -> None:
    assert (model["phase"], model["model"], model["unix_user"]) == ("ready", "tiny", "alice")
    done = product.sluice("chat", "main", "Hello, who are you?")
    assert done.returncode == 0
    assert len(done.stdout.strip()) > 3


def test_the_openai_sdk_streams(product: Product, model: dict[str, Any]) -> None:
    del model
    told = product.json("env")
    with openai.OpenAI(base_url=told["OPENAI_BASE_URL"], api_key=told["OPENAI_API_KEY"]) as client:
        assert "tiny" in [found.id for found in client.models.list()]
        answer = client.chat.completions.create(model="tiny", messages=HELLO)
        chunks = client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert answer.choices[0].message.content
    assert said


def test_it_is_measured(product: Product, model: dict[str, Any], tmp_path: Path) -> None:
    load = ("--concurrency", "2", "--requests", "4", "--output-tokens", "8", "--prompt-tokens", "32", "--warmup", "1")
    told = product.json("bench", model["name"], *load, "--output", str(tmp_path / "report"))
    figures = told["stages"][0]["figures"]
    assert (figures["succeeded"], figures["failed"], figures["tokens_by"]) == (4, 0, "usage")
    assert figures["output_tokens"] == 4 * 8
    assert 4 * 24 <= figures["prompt_tokens"] <= 4 * 40
    assert told["environment"]["image_sha256"] == model["image_sha256"]
    assert "Time to first token" in product.sluice("bench", "show", told["folder"]).stdout


def test_the_session_is_reached_by_its_own_address(product: Product, model: dict[str, Any]) -> None:
    address = f"{product.url}/s/{model['id']}/health"
    assert httpx.get(address, timeout=60).status_code == 401
    token = {"Authorization": f"Bearer {product.environment['SLUICE_TOKEN']}"}
    answer = httpx.get(address, headers=token, timeout=60)
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


def test_nothing_of_it_is_readable_by_another_user(product: Product, model: dict[str, Any]) -> None:
    folder = f"/home/alice/.sluice/sessions/{model['id']}"
    found = product.cluster.exec("login", ["ls", folder], user="alice")
    assert {"job-1.log", "service-1.log", "work"} <= set(found.stdout.split())
    refused = product.cluster.exec("login", ["ls", folder], user="bob", check=False)
    assert refused.returncode != 0
    assert "Permission denied" in refused.stderr


def test_the_image_is_pinned(product: Product, model: dict[str, Any]) -> None:
    newest = next(image for image in product.json("image", "list") if image["name"] == "llama-cpp")
    assert model["image_sha256"] == newest["sha256"]


def test_a_batch_session_keeps_its_output_and_exit_code(product: Product) -> None:
    done = product.sluice("launch", "shell-command", "-p", "command=echo out; echo err >&2", "--name", "out", "--wait")
    assert done.returncode == 0, done.stderr
    assert product.json("show", "out")["phase"] == "succeeded"
    assert product.sluice("logs", "out").stdout.splitlines() == ["out", "err"]
    product.sluice("launch", "shell-command", "-p", "command=exit 7", "--name", "seven")
    session = ended(product, "seven")
    assert (session["phase"], session["reason"]) == ("failed", "finished")
    assert "exit code 7" in session["message"]


def test_what_would_be_sent_is_what_is_sent(product: Product) -> None:
    words = ["launch", "shell-command", "-p", "command=true", "--name", "same"]
    shown = product.json(*words, "--dry-run")
    assert product.sluice(*words).returncode == 0
    sent = product.json("show", "same", "--script")
    session = product.json("show", "same")["id"].lower()
    dry = shown["options"]["name"].removeprefix("sluice-").removesuffix("-1")
    assert sent["script"].lower() == shown["script"].lower().replace(dry, session)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["lama-cpp"], 3, "Did you mean 'llama-cpp'?"),
        (["llama-cpp", "-p", "context=many"], 2, "'many' is not a whole number"),
        (["llama-cpp", "-p", "contxt=1"], 2, "Did you mean 'context'?"),
        (["needs-nothing"], 3, "there is no image 'nothing' on"),
        (["llama-cpp", "--cluster", "nowhere"], 3, "nowhere"),
        (["shell-command", "-p", "command=true", "--partition", "nowhere", "--wait"], 1, "Invalid partition name"),
        (["shell-command", "-p", "command=true", "--account", "teaching", "--wait"], 1, "Invalid account"),
    ],
    ids=["recipe", "value", "parameter", "image", "cluster", "partition", "account"],
)
def test_what_cannot_be_is_told_clearly(product: Product, words: list[str], code: int, said: str) -> None:
    done = product.sluice("launch", *words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr


def test_a_job_that_was_cancelled_behind_our_back(product: Product) -> None:
    product.sluice("launch", "shell-command", "-p", "command=sleep 600", "--name", "gone")
    product.sluice("wait", "gone")
    job_id = product.json("show", "gone")["job"]["job_id"]
    product.cluster.exec("login", ["scancel", str(job_id)], user="alice")
    session = ended(product, "gone")
    assert (session["phase"], session["reason"]) == ("failed", "cancelled")
    assert f"Job {job_id} was cancelled outside Sluice" in session["message"]


def test_a_job_that_meets_its_time_limit(product: Product) -> None:
    product.sluice("launch", "shell-command", "-p", "command=sleep 600", "--name", "late", "--time", "1")
    product.sluice("wait", "late")
    job_id = product.json("show", "late")["job"]["job_id"]
    product.cluster.exec("ctl", ["scontrol", "update", f"JobId={job_id}", "TimeLimit=0:01"])
    session = ended(product, "late")
    assert (session["phase"], session["reason"]) == ("failed", "time_limit")
    assert "--time" in session["message"]


def test_a_service_that_exits_by_itself_has_failed(product: Product) -> None:
    done = product.sluice("launch", "llama-cpp", "-p", "model=/opt/models/none.gguf", "--name", "bad", "--wait")
    assert done.returncode == 1
    assert "ended before it was ready" in done.stderr
    assert "none.gguf" in product.sluice("logs", "bad").stdout


def test_a_waiting_job_says_why_and_where_it_stands(product: Product) -> None:
    blocker = product.cluster.exec(
        "login", ["sbatch", "--parsable", "-pgpu", "-N2", "--gres=gpu:a100:4", "--wrap", "sleep 600"], user="bob"
    )
    gpus = ("--partition", "gpu", "--gpus", "a100:1")
    try:
        product.sluice("launch", "shell-command", "-p", "command=true", "--name", "second", "--no-wait", *gpus)
        with product.client() as client:
            for event in client.sessions.get("second").events(follow=True):
                if event.type == "session.reason" and event.data["position"] and event.data["reason"]:
                    break
        session, end = product.json("show", "second"), time.monotonic() + 60
        while session["reason"] == "" and time.monotonic() < end:  # Slurm says none between two looks of its own
            session = product.json("show", "second")
        assert (session["phase"], session["queue_position"]) == ("queued", 1)
        assert session["reason"] in {"Resources", "Priority"}
    finally:
        product.cluster.exec("ctl", ["scancel", blocker.stdout.strip()])
    assert ended(product, "second")["phase"] == "succeeded"


def test_events_tell_the_whole_story(product: Product) -> None:
    command = "until [ -e go ]; do sleep 0.1; done"  # what ends between two looks was never seen to run
    product.sluice("launch", "shell-command", "-p", f"command={command}", "--name", "story", "--no-wait")
    assert product.sluice("wait", "story").returncode == 0
    assert product.sluice("exec", "story", "--", "touch", "go").returncode == 0
    assert ended(product, "story")["phase"] == "succeeded"
    with product.client() as client:
        told = [(event.type, event.data.get("phase")) for event in client.sessions.events("story")]
    assert told[0][0] == "session.created"
    assert [phase for kind, phase in told if kind == "session.phase"] == ["queued", "running", "succeeded"]


def test_no_token_reaches_slurm(product: Product, model: dict[str, Any]) -> None:
    job = str(model["job"]["job_id"])
    told = product.cluster.exec("ctl", ["scontrol", "show", "job", "-d", job]).stdout
    told += product.cluster.exec("ctl", ["sacct", "-j", job, "-o", "ALL", "-P"]).stdout
    told += product.sluice("show", "main", "--script").stdout + product.log.read_text()
    assert product.environment["SLUICE_TOKEN"] not in told
    assert "PRIVATE KEY" not in told
