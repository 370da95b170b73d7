"""The model that the demo and the tests talk to: made by a script of ours, with nothing but Python."""

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import data

FILES = data.folder("apptainer") / "files"


def make(folder: Path) -> tuple[Path, Path]:
    gguf, model = folder / "tiny.gguf", folder / "tiny"
    subprocess.run(
        [sys.executable, FILES / "tiny_model.py", FILES / "tiny_corpus.txt", "--gguf", gguf, "--folder", model],
        check=True,
    )
    return gguf, model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make(tmp_path_factory.mktemp("model"))


def digests(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_it_is_small_and_always_the_same(made: tuple[Path, Path], tmp_path: Path) -> None:
    gguf, model = made
    again, model_again = make(tmp_path)
    assert gguf.stat().st_size < 1_000_000
    files = sorted(path.name for path in model.iterdir())
    assert digests([gguf, *(model / name for name in files)]) == digests(
        [again, *(model_again / name for name in files)]
    )


def test_the_gguf_file_is_as_long_as_its_tensors(made: tuple[Path, Path]) -> None:
    content = made[0].read_bytes()
    magic, version, tensors, fields = struct.unpack_from("<4sIQQ", content)
    assert (magic, version, tensors) == (b"GGUF", 3, 12)
    assert fields > 20


def test_the_folder_is_one_that_loaders_know(made: tuple[Path, Path]) -> None:
    model = made[1]
    config = json.loads((model / "config.json").read_text())
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    raw = (model / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    assert max(entry["data_offsets"][1] for entry in tensors.values()) == len(raw) - 8 - length
    assert tensors["lm_head.weight"]["shape"] == [config["vocab_size"], config["hidden_size"]]
    assert sorted(tokenizer["model"]["vocab"].values()) == list(range(config["vocab_size"]))
    assert len(tokenizer["model"]["merges"]) > 200
