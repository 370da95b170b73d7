"""Definition files: what is shipped, what they take, what a build is sent."""

import io
import re
import tarfile
from pathlib import Path

import pytest

from gateway import data
from gateway.core import definitions
from gateway.errors import ImageMissing, Invalid

SHIPPED = ["base", "code-server", "jupyter", "llama-cpp", "python", "pytorch", "vllm"]


def members(context: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(context), mode="r:gz") as tar:
        found = {entry.name: tar.extractfile(entry) for entry in tar}
        return {name: file.read() for name, file in found.items() if file is not None}


def test_these_are_shipped() -> None:
    assert definitions.shipped() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_definition_names_no_server_and_leaves_nothing_of_the_build_host(name: str) -> None:
    definition = definitions.find(name)
    assert not re.search(
        r"https?://|\.(org|com|net|io)\b(?!\.opencontainers)", definition.text.replace("org.opencontainers", "")
    )
    post = [line.strip() for line in definition.section("post")]
    assert post[0] == ". /.sluice-build/enter"
    assert [line for line in post if line][-1] == "sluice_leave"
    assert "MIRROR" in definition.arguments


@pytest.mark.parametrize(
    ("name", "base"), [("base", None), ("llama-cpp", "base"), ("python", "base"), ("vllm", "pytorch")]
)
def test_an_image_says_what_it_is_built_on(name: str, base: str | None) -> None:
    assert definitions.find(name).base == base


def test_arguments_and_their_defaults() -> None:
    assert definitions.find("vllm").arguments["VARIANT"] == "cpu"


def test_an_argument_that_is_not_taken_names_the_nearest() -> None:
    with pytest.raises(Invalid, match="VARAINT") as caught:
        definitions.find("vllm").check({"VARAINT": "cuda"})
    assert "'VARIANT'" in caught.value.hint


@pytest.mark.parametrize("value", ["a'b", 'a"b', "$(id)", "`id`", "a\nb"])
def test_an_argument_cannot_end_the_words_it_is_put_into(value: str) -> None:
    with pytest.raises(Invalid, match="no quotes"):
        definitions.find("vllm").check({"VLLM": value})


def test_an_unknown_image_names_the_nearest() -> None:
    with pytest.raises(ImageMissing, match="llama-ccp") as caught:
        definitions.find("llama-ccp")
    assert "'llama-cpp'" in caught.value.hint


def test_a_build_is_sent_the_same_bytes_each_time() -> None:
    definition = definitions.find("llama-cpp")
    context = definition.context()
    assert context == definition.context()
    shared = {f"files/{path.name}" for path in (data.folder("apptainer") / "files").iterdir() if path.is_file()}
    assert set(members(context)) == {"image.def", *shared}


def test_what_an_image_is_made_from() -> None:
    definition = definitions.find("vllm")
    digests = {
        definition.digest({}, "a" * 64),
        definition.digest({}, "b" * 64),
        definition.digest({"VARIANT": "cuda"}, "a" * 64),
        definitions.find("python").digest({}, "a" * 64),
    }
    assert len(digests) == 4
    assert definition.digest({}, "a" * 64) in digests


def test_a_definition_of_ones_own_brings_what_it_copies(tmp_path: Path) -> None:
    (tmp_path / "tools" / "deep").mkdir(parents=True)
    (tmp_path / "tools" / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "tools" / "deep" / "a.txt").write_text("a")
    (tmp_path / "b1.txt").write_text("b1")
    (tmp_path / "other.txt").write_text("not copied")
    path = tmp_path / "mine.def"
    path.write_text(
        "Bootstrap: localimage\nFrom: x.sif\n%files\n  tools /opt/tools\n  b*.txt /opt\n  /etc/hosts /x\n%post\n"
    )
    definition = definitions.find(str(path))
    assert definition.name == "mine"
    sent = members(definition.context())
    assert {name for name in sent if not name.startswith("files/")} == {
        *("image.def", "tools/run.sh", "tools/deep/a.txt", "b1.txt"),
    }


@pytest.mark.parametrize("source", ["gone.txt", "../secret.txt"])
def test_what_does_not_lie_beside_the_definition_is_refused(tmp_path: Path, source: str) -> None:
    (tmp_path / "secret.txt").write_text("x")
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "mine.def"
    path.write_text(f"Bootstrap: localimage\nFrom: x.sif\n%files\n  {source} /x\n")
    with pytest.raises(Invalid, match="not beside"):
        definitions.find(str(path)).context()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="No such file"):
        definitions.find(str(tmp_path / "none.def"))
