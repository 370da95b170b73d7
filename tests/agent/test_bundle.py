"""The packed agent: reproducible, small, and whole."""

import base64
import hashlib
import io
import zipfile

from gateway.render.bundle import agent_bundle


def test_the_text_decodes_to_what_the_digest_says() -> None:
    bundle = agent_bundle()
    data = base64.b64decode(bundle.text)
    assert hashlib.sha256(data).hexdigest() == bundle.sha256
    assert len(data) == bundle.size
    assert all(len(line) <= 76 for line in bundle.text.splitlines())
    assert bundle.text.endswith("\n")


def test_the_same_sources_give_the_same_bytes() -> None:
    agent_bundle.cache_clear()
    first = agent_bundle()
    agent_bundle.cache_clear()
    assert agent_bundle() == first


def test_it_holds_the_agent_and_nothing_else() -> None:
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(agent_bundle().text))) as archive:
        names = archive.namelist()
    assert "__main__.py" in names
    assert all(name == "__main__.py" or name.startswith("sluice_agent/") for name in names)
    assert not [name for name in names if "__pycache__" in name]


def test_it_is_small() -> None:
    assert agent_bundle().size < 60_000
