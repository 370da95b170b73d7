"""Reads files of policies: Cedar (`.cedar`) and limits (`.toml`); what is wrong is said with line and column.

Cedar's own errors name no place, so each policy is taken out of its file and looked at alone, and the place in it is
found by the word that the error is about.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cedarpy
from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.core.policy_guard import Guard, guards_of, words_of
from gateway.errors import PolicyInvalid
from gateway.model.limit import Limit, LimitName, quoted, statements

MAX_BYTES = 1 << 20
_TOKEN = re.compile(r'//[^\n]*|"(?:\\.|[^"\\])*"|[A-Za-z_][A-Za-z0-9_]*|\d+|::|==|!=|<=|>=|&&|\|\||\s+|.', re.DOTALL)
_BACKQUOTED = re.compile(r"`([^`]*)`")
_END = "unexpected end of input"


class Rule(NamedTuple):
    """One policy. `actions`: those it names; none: all. `words`: all that stand in it, and more.

    `limit` and `looks_at` are set where it was made of a limit.
    """

    id: str
    effect: str
    allows: str
    text: str
    path: Path
    line: int
    actions: frozenset[str]
    about: str
    guards: tuple[Guard, ...]
    words: frozenset[str]
    limit: str = ""
    looks_at: str = ""

    def concerns(self, action: str, about: str = "session") -> bool:
        """Whether it speaks of this action, with this kind of thing."""
        return (not self.actions or action in self.actions) and self.about.lower() in {"", about}


@dataclass
class PolicyFile:
    """A file as it was read."""

    path: Path
    rules: list[Rule] = field(default_factory=list)
    limits: dict[str, Limit] = field(default_factory=dict)
    problems: list[PolicyInvalid] = field(default_factory=list)


class _Token(NamedTuple):
    text: str
    start: int


class _Statement(NamedTuple):
    """A policy's text with the places of its words; `start` is where it begins in the file."""

    text: str
    start: int
    tokens: tuple[_Token, ...]


class _Limits(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: Mapping[LimitName, Limit] = {}


def read(path: Path, schema: cedarpy.Schema) -> PolicyFile:
    """Read and check one file; never raises for what is in it."""
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise ValueError(f"the file has {len(data)} bytes; at most {MAX_BYTES} are read")  # noqa: TRY301
        text = data.decode()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return PolicyFile(path, problems=[problem(path, "", 0, why or "it cannot be read")])
    return parse(path, text, schema)


def parse(path: Path, text: str, schema: cedarpy.Schema) -> PolicyFile:
    """The same of a text. `path` is its name."""
    return _read_limits(path, text) if path.suffix == ".toml" else _read_cedar(path, text, schema)


def problem(path: Path, text: str, place: int, message: str, hint: str = "") -> PolicyInvalid:
    """What is wrong at a place of a file's text."""
    before = text[:place]
    line, column = before.count("\n") + 1, place - before.rfind("\n")
    return PolicyInvalid(
        f"{path}:{line}:{column}: {message}", hint=hint, file=str(path), line=line, column=column, why=message
    )


# ------------------------------------------------------------------ Cedar


def _read_cedar(path: Path, text: str, schema: cedarpy.Schema) -> PolicyFile:
    found = PolicyFile(path)
    for statement in _statements(text):
        broken = _syntax(statement)
        if broken is not None:
            message, place = broken
            found.problems.append(problem(path, text, statement.start + place, message))
            continue
        wrong = list(_meaning(statement, schema))
        found.problems += [
            problem(path, text, statement.start + place, message, hint) for message, place, hint in wrong
        ]
        if not wrong:
            found.rules.append(_rule(statement.text, path, text.count("\n", 0, statement.start) + 1))
    return found


def _statements(text: str) -> Iterator[_Statement]:
    """The policies of a text: what ends with a semicolon, without the comments before it."""
    tokens: list[_Token] = []
    for match in _TOKEN.finditer(text):
        word = match[0]
        if word.isspace() or word.startswith("//"):
            continue
        tokens.append(_Token(word, match.start()))
        if word == ";":
            yield _statement(text, tokens)
            tokens = []
    if tokens:
        yield _statement(text, tokens)


def _statement(text: str, tokens: list[_Token]) -> _Statement:
    start, last = tokens[0].start, tokens[-1]
    own = tuple(_Token(token.text, token.start - start) for token in tokens)
    return _Statement(text[start : last.start + len(last.text)], start, own)


def _syntax(statement: _Statement) -> tuple[str, int] | None:
    """What Cedar says of the text, and where: at the first word with which the text cannot be gone on with."""
    message = _refusal(statement.text)
    if message is None:
        return None
    for number, token in enumerate(statement.tokens):
        upto = statement.text[: token.start + len(token.text)]
        said = _refusal(upto)
        if said is not None and said != _END:
            about = _BACKQUOTED.findall(said)[:1]
            named = [one.start for one in statement.tokens[: number + 1] if [one.text] == about]
            return said, named[-1] if named else token.start
    return message, statement.tokens[-1].start


def _refusal(text: str) -> str | None:
    try:
        cedarpy.PolicySet.from_str(text)
    except ValueError as error:
        return str(error)
    return None


def _meaning(statement: _Statement, schema: cedarpy.Schema) -> Iterator[tuple[str, int, str]]:
    """What is wrong with a policy that can be read: message, place, hint."""
    said = _said(statement.text)
    yield from _types(statement, schema, of_all="entity_type" not in said["resource"])
    notes = said.get("annotations", {})
    if not notes.get("id"):
        yield "the policy has no name", 0, 'Give it one: @id("what-it-is-for")'
    if not notes.get("allows"):
        yield "the policy does not say what it allows", 0, 'People are told it: @allows("at most 4 GPUs at night")'
    if any(template for template in ("?principal", "?resource") if template in statement.text):
        yield "templates are not taken", 0, "Write the policy out."


def _types(statement: _Statement, schema: cedarpy.Schema, *, of_all: bool) -> Iterator[tuple[str, int, str]]:
    """What does not fit the schema, once a place: Cedar says it again for each kind of thing that is asked about."""
    found: dict[int, str] = {}
    for error in cedarpy.validate_policies(statement.text, schema).errors:
        message = re.sub(r"^for policy `policy0`, ", "", error.error)
        place = _place(statement, message)
        found[place] = message if "`Session`" in message else found.get(place, message)
    for place, message in found.items():
        others = of_all and "`Session`" not in message and re.search("`(Secret|Volume|Person|Project|Token)`", message)
        narrow = "Write `resource is Session` if it is about sessions alone. " if others else ""
        yield message, place, f"{narrow}`sluice policy show schema` prints what there is."


def _rule(text: str, path: Path, line: int, limit: str = "", looks_at: str = "") -> Rule:
    """A policy that is in order."""
    said = _said(text)
    notes, about = said["annotations"], str(said["resource"].get("entity_type", ""))
    seen = _actions(said), about, guards_of(said), frozenset(words_of(said))
    return Rule(notes["id"], said["effect"], notes["allows"], text, path, line, *seen, limit, looks_at)


def _actions(said: Mapping[str, Any]) -> frozenset[str]:
    scope = said["action"]
    entities = [scope.get("entity"), *scope.get("entities", ())]
    return frozenset(entity["id"] for entity in entities if entity is not None)


def _said(text: str) -> dict[str, Any]:
    policies = json.loads(cedarpy.policies_to_json_str(text))
    found: dict[str, Any] = next(iter((policies["staticPolicies"] or policies["templates"]).values()))
    return {"annotations": {}, **found}


def _place(statement: _Statement, message: str) -> int:
    """The first of the words in backquotes that stands in the policy."""
    for quoted_word in _BACKQUOTED.findall(message):
        for word in reversed(re.findall(r'"[^"]*"|\w+', quoted_word)):
            for token in statement.tokens:
                if token.text == word:
                    return token.start
    return 0


# ------------------------------------------------------------------ limits


def _read_limits(path: Path, text: str) -> PolicyFile:
    found = PolicyFile(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        place = _offset(text, int(at[1]), int(at[2])) if at else len(text)
        found.problems.append(problem(path, text, place, re.sub(r" \(at .*\)$", "", str(error))))
        return found
    try:
        limits = _Limits.model_validate(values).limit
    except ValidationError as error:
        for details in error.errors():
            words = [str(word) for word in details["loc"]]
            message = f"{'.'.join(words)}: {details['msg'].removeprefix('Value error, ')}"
            found.problems.append(problem(path, text, _toml_place(text, words), message))
        return found
    for name, limit in limits.items():
        place = _toml_place(text, ["limit", name])
        rules = [
            _rule(
                f"@id({quoted(made.id)})\n@allows({quoted(made.allows)})\n"
                f'forbid (principal, action == Action::"create", resource)\nwhen {{\n  {made.condition}\n}};',
                path,
                text.count("\n", 0, place) + 1,
                name,
                made.looks_at,
            )
            for made in statements(name, limit)
        ]
        if not rules:
            hint = "Give it `maximum`, `only`, `lock` or `parameters`."
            found.problems.append(problem(path, text, place, f"limit.{name} limits nothing", hint))
        found.rules += rules
        found.limits[name] = limit
    return found


def _offset(text: str, line: int, column: int) -> int:
    return sum(len(one) for one in text.splitlines(keepends=True)[: line - 1]) + column - 1


def _toml_place(text: str, words: list[str]) -> int:
    """Where the last of the words stands that can be found, each after the one before and its table's head."""
    place = 0
    table = re.search(rf"^\s*\[limit\.[\"']?{re.escape(words[1])}\b", text, re.MULTILINE) if len(words) > 1 else None
    if table is not None:
        place = table.start() + len(table[0]) - len(table[0].lstrip())
    following = re.search(r"^\s*\[limit\.", text[place + 1 :], re.MULTILINE)
    end = place + 1 + following.start() if following and table is not None else len(text)
    for word in words[2 if table is not None else 0 :]:
        hit = re.compile(rf"\b{re.escape(word)}\b").search(text, place + 1 if table is not None else place, end)
        if hit is not None:
            place = hit.start()
    return place
