"""Expressions: values stay values, and data is never a template."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.render.expression import arguments, check, evaluate


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ n }}", 4),
        ("{{- n -}}", 4),
        ("n={{ n }}", "n=4"),
        ("{{ n }}{{ n }}", "44"),
        ("{{ none }}", None),
        ("{{ ['--a', n] if n else [] }}", ["--a", 4]),
        ("{{ flag }}", True),
        ("{{ n + 0.5 }}", 4.5),
        ("{{ {'a': 1}['a'] }}", 1),
        ("{{ '}}' }}", "}}"),
        ("{% if flag %}yes{% endif %}", "yes"),
        ("plain", "plain"),
        ("line\n", "line\n"),
        ("{{ name.upper() }}", "ANNA"),
    ],
)
def test_values(text: str, value: object) -> None:
    assert evaluate(text, {"n": 4, "flag": True, "name": "Anna"}) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ n }}", ["4"]),
        ("{{ flag }}", ["true"]),
        ("{{ none }}", []),
        ("{{ empty }}", []),
        ("{{ items }}", ["a b", "", "-c"]),
        ("{{ '' }}", [""]),
        ("", [""]),
        ("--x={{ items[0] }}", ["--x=a b"]),
    ],
)
def test_arguments(text: str, words: list[str]) -> None:
    assert arguments(text, {"n": 4, "flag": True, "empty": [], "items": ["a b", "", "-c"]}) == words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ missing }}", "'missing' is undefined"),
        ("a{{ missing }}", "'missing' is undefined"),
        ("{{ n.missing }}", "no attribute"),
        ("a{{ none }}", "none stands inside a text"),
        ("a{{ [1] }}", "a list stands inside a text"),
        ("{{ n / 0 }}", "division"),
        ("{{ 'a' + 1 }}", "TypeError"),
        ("{{ n", "unexpected end"),
        ("{{ ''.__class__.__mro__ }}", "unsafe|no attribute|undefined"),
        ("{{ n.__class__ }}", "unsafe|no attribute|undefined"),
        ("{{ items.append(1) }}", "not safely callable|unsafe|no attribute|undefined"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ lipsum() }}", "undefined"),
        ("{{ {'a': 1} }}x", "dict stands inside"),
        ("{{ n | nosuchfilter }}", "nosuchfilter"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        evaluate(text, {"n": 4, "items": [1]})


@given(st.text())
def test_a_value_is_data_whatever_it_looks_like(value: str) -> None:
    assert evaluate("{{ value }}", {"value": value}) == value
    assert evaluate("<{{ value }}>", {"value": value}) == f"<{value}>"


@pytest.mark.parametrize("value", ["{{ 7 * 7 }}", "{% raw %}", "{# #}", "[1, 2]", "None", "'a'", "1e3", "True"])
def test_text_that_looks_like_code_stays_text(value: str) -> None:
    assert arguments("{{ value }}", {"value": value}) == [value]


def test_check_finds_unknown_names_before_they_are_used() -> None:
    check("{{ threads if gpu else none }}", {"threads", "gpu"})
    with pytest.raises(ValueError, match="did you mean 'threads'"):
        check("--t={{ thread }}", {"threads", "context"})
    with pytest.raises(ValueError, match="expected token"):
        check("{{ a b }}", {"a", "b"})
