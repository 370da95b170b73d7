"""The SDK against a whole gateway: real server, real data plane, the in-memory Slurm."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import errors
from gateway.sdk import AsyncSluice, Session, Sluice
from tests.live import Live, live


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path) as made:
        yield made


@pytest.fixture
def sluice(gateway: Live) -> Iterator[Sluice]:
    with Sluice(gateway.url, gateway.token) as client:
        yield client


def test_a_session_from_launch_to_its_end(gateway: Live, sluice: Sluice) -> None:
    session = sluice.sessions.create("count", parameters={"to": 5}, name="five", labels={"for": "test"})
    job_id = gateway.job_id(session.id)
    seen: list[str] = []

    def act(now: Session) -> None:
        seen.append(now.phase)
        if now.phase == "queued":
            gateway.in_slurm(gateway.site.slurm.start, job_id)
        if now.phase == "running":
            gateway.in_slurm(gateway.site.slurm.finish, job_id)

    session.wait("ended", 120, on_change=act)
    assert session.phase == "succeeded"
    assert seen[-1] == "succeeded"
    assert "running" in seen
    kinds = [event.type for event in session.events()]
    assert kinds[0] == "session.created"
    assert {event.session for event in sluice.events(after=0, follow=False)} == {session.id}
    assert session.view.parameters["to"] == 5
    assert "count" in session.script().script
    session.delete()
    with pytest.raises(errors.SessionNotFound):
        session.refresh()


def test_a_ready_session_is_used(gateway: Live, sluice: Sluice) -> None:
    made = gateway.ready(name="talk")
    session = sluice.sessions.get("talk").wait(timeout=60)
    assert session.url == f"{gateway.url}/s/{made.id}/"
    assert "".join(sluice.chat("Hello there", model=session.id)).strip() == "You said: Hello there"
    with session.openai() as client:
        answer = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}])
    assert answer.choices[0].message.content == "You said: Hi"
    assert session.stop().view.stop_requested
    with pytest.raises(errors.SessionFailed, match="was stopped"):
        session.wait("ready", 120)


async def test_the_asyncio_client(gateway: Live) -> None:
    async with AsyncSluice(gateway.url, gateway.token) as sluice:
        for name in ("a", "b", "c"):
            await sluice.sessions.create("count", name=name)
        assert [s.name async for s in sluice.sessions.list(page_size=2)] == ["c", "b", "a"]
        assert (await sluice.health()).checks["database"] == "ok"
        assert [cluster.name for cluster in await sluice.clusters.list()] == ["c"]
        assert (await sluice.clusters.get("c")).name == "c"
        assert [image.name for image in await sluice.images.list(cluster="c")] == ["base"]
        stopped = await (await sluice.sessions.stop("a")).wait("ended", 120)
        assert stopped.phase == "stopped"


def test_the_catalogue(sluice: Sluice) -> None:
    page = sluice.recipes.list()
    assert [recipe.name for recipe in page.items] == ["app", "chat", "count"]
    assert page.problems == []
    assert sluice.recipes.get("count").versions == ["1.0"]
    assert sluice.recipes.parameters("count")["properties"]["to"]["maximum"] == 9
    assert "properties" in sluice.recipes.schema()
    assert "count" in sluice.recipes.render("count", parameters={"to": 4}).script


def test_refusals_are_the_same_errors(gateway: Live, sluice: Sluice) -> None:
    with pytest.raises(errors.RecipeNotFound, match="cuont") as caught:
        sluice.sessions.create("cuont")
    assert "count" in caught.value.hint
    with pytest.raises(errors.ParameterInvalid, match="above the maximum"):
        sluice.sessions.create("count", parameters={"to": 99})
    sluice.sessions.create("count", name="one")
    with pytest.raises(errors.Conflict, match="one"):
        sluice.sessions.create("count", name="one")
    with pytest.raises(errors.Conflict, match="not ended"):
        sluice.sessions.delete("one")
    with Sluice(gateway.url, "wrong") as other, pytest.raises(errors.Unauthenticated):
        other.health()
    with pytest.raises(errors.NotFound, match="nowhere"):
        list(sluice.chat("Hi", model="nowhere"))


def test_one_key_is_one_session(sluice: Sluice) -> None:
    first = sluice.sessions.create("count", idempotency_key="k")
    assert sluice.sessions.create("count", idempotency_key="k").id == first.id
    with pytest.raises(errors.Conflict):
        sluice.sessions.create("count", parameters={"to": 1}, idempotency_key="k")


def test_a_log_is_followed_while_it_grows(gateway: Live, sluice: Sluice) -> None:
    session = sluice.sessions.create("count", name="log")
    job_id = gateway.job_id(session.id)
    gateway.in_slurm(gateway.site.slurm.start, job_id)
    log = gateway.site.log(gateway.reaches(session.id, "ready"))
    log.write_text("one\n")
    pieces: list[str] = []
    for piece in session.refresh().logs(follow=True):
        pieces.append(piece)
        if len(pieces) == 1:
            with log.open("a") as file:
                file.write("two\nthree\n")
            gateway.in_slurm(gateway.site.slurm.finish, job_id)
    assert "".join(pieces) == "one\ntwo\nthree\n"
    assert "".join(session.logs(tail=1)) == "three\n"


def test_waiting_outlives_a_restart_of_the_gateway(tmp_path: Path) -> None:
    """The gateway goes away while somebody waits, and comes back at the same address."""
    folder = tmp_path / "site"
    folder.mkdir()
    with live(folder) as gateway, Sluice(gateway.url, gateway.token) as sluice:
        session = sluice.sessions.create("count")
        gateway.job_id(session.id)
        waiting = threading.Event()
        done: list[str] = []

        def wait() -> None:
            session.wait("ended", 120, on_change=lambda _: waiting.set())
            done.append(session.phase)

        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(120)
        gateway.restart()
        gateway.in_slurm(gateway.site.slurm.finish, gateway.job_id(session.id))
        thread.join(120)
    assert done == ["succeeded"]
