"""Dockerfiles become definition files, and what does not is said."""

from pathlib import Path

import pytest

from gateway.core.definitions import Definition
from gateway.core.dockerfile import convert, read
from gateway.errors import Invalid

DOCKERFILE = """\
# two stages
FROM --platform=linux/amd64 python:3.11-slim AS build
WORKDIR /src
COPY requirements.txt .
RUN --mount=type=cache,target=/root/.cache pip wheel \\
    # a comment between the lines
    -w /wheels -r requirements.txt

FROM python:3.11-slim
ARG WHAT
ENV APP_HOME=/app NAME="a b"
LABEL maintainer=someone title="An app"
COPY --from=build /wheels /wheels
COPY --chown=1000:1000 app.py data/ /app/
ADD model.tar.gz /opt/
RUN ["pip", "install", "/wheels/a b.whl"]
USER nobody
EXPOSE 8080
HEALTHCHECK CMD true
ENTRYPOINT ["python", "/app/app.py", "--title", "two words"]
CMD ["--port", "8080"]
"""


@pytest.fixture
def dockerfile(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    path = tmp_path / "Dockerfile"
    path.write_text(DOCKERFILE)
    return path


def stages(text: str) -> list[Definition]:
    _, *parts = text.split("\nBootstrap: docker\n")
    return [Definition("x", Path("x.def"), part) for part in parts]


def test_continuation_lines_and_comments_are_joined() -> None:
    found = list(read(DOCKERFILE))
    assert found[3].word == "RUN"
    assert found[3].line == 5
    assert found[3].rest.endswith("pip wheel -w /wheels -r requirements.txt")


def test_stages_files_and_commands_are_converted(dockerfile: Path) -> None:
    text = convert(dockerfile).definition
    build, final = stages(text)
    assert "From: python:3.11-slim\nStage: build" in build.text
    assert build.section("files")[0] == "requirements.txt /src/"
    assert "pip wheel -w /wheels -r requirements.txt" in build.section("post")
    assert "%files from build\n/wheels /wheels" in final.text
    assert [line for line in final.section("files") if line] == ["app.py /app/", "data/* /app/", "model.tar.gz /opt/"]
    assert "pip install '/wheels/a b.whl'" in final.section("post")
    assert 'export NAME="a b"' in final.section("environment")
    assert "title An app" in final.section("labels")
    assert final.section("runscript")[0] == "exec python /app/app.py --title 'two words' --port 8080 \"$@\""


def test_environment_holds_for_what_post_starts(dockerfile: Path) -> None:
    post = stages(convert(dockerfile).definition)[1].section("post")
    assert post.index("set -ea") < post.index('NAME="a b"')


def test_what_cannot_be_converted_is_said_with_its_line(dockerfile: Path) -> None:
    notes = dict(reversed(convert(dockerfile).notes))
    assert notes[5].startswith("RUN's options")
    assert notes[10].startswith("ARG WHAT has no default")
    assert "unpack it" in notes[15]
    assert "user of the job" in notes[17]
    assert "probe" in notes[19]
    assert set(notes) == {5, 10, 14, 15, 16, 17, 18, 19, 21}


@pytest.mark.parametrize(
    ("text", "said"),
    [("RUN true\n", "no FROM"), ("FROM a\nRUN <<EOF\ntrue\nEOF\n", "line 2: here-documents")],
)
def test_what_is_no_dockerfile_for_us(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(text)
    with pytest.raises(Invalid, match=said):
        convert(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        convert(tmp_path / "Dockerfile")
