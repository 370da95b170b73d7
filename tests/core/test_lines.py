"""The lines of a batch: split anywhere they are the same lines, and every fault names its line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.lines import BadLine, Check, Kind, Splitter, answered, read, refused

TARGETED = Kind(targeted=True)
TEXTS = st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line), max_size=12)


def split(data: bytes, cuts: list[int], longest: int = 64) -> list[tuple[int, bytes]]:
    splitter, found, start = Splitter(longest), list[tuple[int, bytes]](), 0
    for cut in [*sorted(cuts), len(data)]:
        found += splitter.feed(data[start:cut])
        start = max(start, cut)
    return [*found, *splitter.end()]


@given(TEXTS, st.lists(st.integers(0, 160), max_size=6))
def test_lines_do_not_depend_on_the_pieces_in_which_they_come(texts: list[bytes], cuts: list[int]) -> None:
    expected = [(number, line.strip()) for number, line in enumerate(texts, 1) if line.strip()]
    assert split(b"\n".join(texts), cuts) == expected


@pytest.mark.parametrize("data", [b"x" * 9, b"x" * 9 + b"\n", b"a\n" + b"x" * 90 + b"\nb\n"])
def test_a_line_that_is_too_long_is_one_wherever_it_is_cut(data: bytes) -> None:
    for cut in range(len(data)):
        with pytest.raises(BadLine, match="longer than"):
            split(data, [cut], longest=8)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('"hi"', ("line-7", "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})),
        ('{"messages": []}', ("line-7", "/v1/chat/completions", {"messages": []})),
        ('{"prompt": "p", "input": "i"}', ("line-7", "/v1/completions", {"prompt": "p", "input": "i"})),
        ('{"input": "i"}', ("line-7", "/v1/embeddings", {"input": "i"})),
        ('{"custom_id": "c", "url": "/v1/responses", "body": {"input": 1}}', ("c", "/v1/responses", {"input": 1})),
    ],
)
def test_what_a_line_asks_for(line: str, expected: tuple[str, str, object]) -> None:
    request = read(7, line.encode(), TARGETED)
    assert (request.custom_id, request.endpoint, json.loads(request.body)) == expected


ENVELOPE = {"custom_id": "c", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "p"}}


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"custom_id": ""}, "invalid_custom_id", "custom_id"),
        ({"custom_id": "x" * 513}, "invalid_custom_id", "custom_id"),
        ({"custom_id": 3}, "invalid_request", "custom_id"),
        ({"method": "GET"}, "invalid_method", "method"),
        ({"url": "/v1/files"}, "invalid_url", "url"),
        ({"url": "/v1/embeddings"}, "mismatched_endpoint", "url"),
        ({"body": {"prompt": "p"}}, "invalid_request", "body.model"),
        ({"body": {"model": "m", "stream": True}}, "invalid_request", "body.stream"),
        ({"body": {"model": "m", "store": True}}, "invalid_request", "body.store"),
        ({"body": {"model": "m", "background": True}}, "invalid_request", "body.background"),
        ({"body": []}, "invalid_request", None),
    ],
)
def test_what_cannot_be_asked(change: dict[str, object], code: str, param: str | None) -> None:
    kind = Kind("/v1/completions")
    assert read(1, json.dumps(ENVELOPE).encode(), kind).model == "m"
    with pytest.raises(BadLine) as bad:
        read(1, json.dumps({**ENVELOPE, **change}).encode(), kind)
    assert (bad.value.code, bad.value.param) == (code, param)


@pytest.mark.parametrize("line", [b"nothing", b"{", b'{"custom_id": "\xff"}', b'"\xff"', b"[" * 5000])
def test_what_is_no_json(line: bytes) -> None:
    with pytest.raises(BadLine) as bad:
        read(1, line, TARGETED)
    assert bad.value.code in {"invalid_json_line", "invalid_request"}


def test_only_so_many_faults_are_told() -> None:
    check = Check(TARGETED, longest=64, most=500)
    check.feed(b"no\n" * 400)
    check.end()
    assert (len(check.faults), check.lines, check.faults[-1].line) == (100, 400, 100)


@given(st.binary(max_size=60), st.integers(200, 599))
def test_a_result_is_one_line_of_json_whatever_was_answered(body: bytes, status: int) -> None:
    ok, line = answered("t", 3, "c", status, "r", body)
    assert (ok, line.count(b"\n"), line[-1:]) == (status < 400, 1, b"\n")
    told = json.loads(line)
    assert (told["id"], told["custom_id"], told["error"]) == ("t-3", "c", None)


def test_an_answer_stands_in_its_result_as_it_is() -> None:
    _, line = answered("t", 1, "c", 200, "r", b'{"a": 1.50,\n "b": "x\\ny",\r\n "c": "\xe2\x80\xa8"}')
    assert json.loads(line)["response"]["body"] == {"a": 1.5, "b": "x\ny", "c": "\u2028"}
    assert b"1.50" in line
    assert json.loads(refused("t", 1, "c", "gone", "why")[1])["error"] == {"code": "gone", "message": "why"}
