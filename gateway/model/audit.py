"""The rows of the audit log and their chain: the hash of each is over what it says and the hash before. Pure.

A row is hashed as it is exported: SHA-256 over its JSON without `hash`, keys sorted, no spaces, ASCII. No key is part
of it, so anybody can check an export, and nobody who holds an older hash can be shown another past.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_serializer

from gateway.errors import AuditBroken

FIRST = "0" * 64
"""What stands for the hash before the first row."""
DONE = "done"
LONGEST = 500

Decision = Literal["allow", "deny", "refuse"]
"""`deny`: they may not. `refuse`: it cannot be, or there is nothing of the kind that they may know of."""
Kind = Literal["local", "person", "service", "system", "unix", "nobody"]
Way = Literal["api", "cli", "browser", "socket", "kubernetes", "loop"]


class AuditLine(BaseModel):
    """What a row says, before it has a place in the chain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime = Field(description="When it was asked for, or done by the gateway itself.")
    who: str = Field(description="Name of the principal; `system` for the gateway itself, empty for nobody known.")
    user_id: str = Field("", description="Id of the user; names are never given twice, either.")
    kind: Kind = Field("person", description="`unix`: whoever ran a command on the gateway's own machine.")
    origin: Way = Field("api", description="What it came through.")
    token: str | None = Field(None, description="Id of the Sluice token that was shown.")
    action: str = Field(examples=["session.create"])
    object_kind: str = Field("", examples=["session"])
    object: str = Field("", description="Id or name of what it was done to.")
    project: str | None = None
    session: str | None = Field(None, description="Id of the session that it concerns.")
    job_id: int | None = Field(None, description="Slurm's id of the job that it concerns.")
    decision: Decision = "allow"
    policy: str = Field("", description="Name of the policy that decided, where one did.")
    outcome: str = Field(DONE, description="`done`, or the code of the error.")
    reason: str = Field("", description="The error in words.")
    request_id: str | None = None
    details: dict[str, JsonValue] = {}

    @field_serializer("at", when_used="json")
    def _moment(self, at: datetime) -> str:
        """Always with microseconds: what is hashed has one spelling."""
        return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class AuditRow(AuditLine):
    """A row of the audit log, in its place."""

    id: int = Field(description="1 for the first row; without gaps.")
    previous: str = Field(description="Hash of the row before; zeros before the first.")
    hash: str = Field(description="SHA-256 over the row's JSON without this field, keys sorted, without spaces.")


class AuditHead(BaseModel):
    """The newest row: keep it elsewhere, and the rows up to it cannot be changed unseen."""

    model_config = ConfigDict(frozen=True)

    id: int = 0
    hash: str = FIRST


class AuditQuery(BaseModel):
    """Filters; `cursor` is the id of the last row of the page before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    who: str | None = None
    action: str | None = None
    object: str | None = None
    session: str | None = None
    decision: Decision | None = None
    since: datetime | None = None
    until: datetime | None = None
    cursor: int | None = None
    limit: int = 50


def digest(row: Mapping[str, Any]) -> str:
    """The hash of a row as it is exported."""
    said = {name: value for name, value in row.items() if name != "hash"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def chained(line: AuditLine, head: AuditHead) -> AuditRow:
    """The line as the row after the head."""
    values = {**line.model_dump(), "id": head.id + 1, "previous": head.hash, "hash": ""}
    row = AuditRow.model_validate(values)
    return row.model_copy(update={"hash": digest(row.model_dump(mode="json"))})


def head_of(row: AuditRow) -> AuditHead:
    return AuditHead(id=row.id, hash=row.hash)


def clean(text: str, longest: int = LONGEST) -> str:
    """Text of somebody's as every database keeps it: no NUL, no lone surrogate, not for ever."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")[:longest]


def walk(rows: Iterable[Mapping[str, Any]], expect: str | None = None) -> AuditHead:
    """All of these rows, from the first on. AuditBroken."""
    chain = Chain(expect)
    for row in rows:
        chain.feed(row)
    return chain.end()


class Chain:
    """Walks the rows from the first on and holds the last hash alone. `expect` is a hash that was kept elsewhere."""

    def __init__(self, expect: str | None = None) -> None:
        self.head = AuditHead()
        self._expect = expect
        self._met = expect is None or expect == FIRST

    def feed(self, row: Mapping[str, Any]) -> None:
        """The next row, as it is exported. AuditBroken if it is not what was written."""
        number, wanted = row.get("id"), self.head.id + 1
        if number != wanted:
            raise _broken(wanted, f"row {wanted} is missing: row {number} follows row {self.head.id}")
        if row.get("previous") != self.head.hash:
            raise _broken(wanted, f"row {wanted} does not follow row {self.head.id}: one of them was written anew")
        if row.get("hash") != digest(row):
            raise _broken(wanted, f"row {wanted} was changed: its content does not have the hash that it had")
        self.head = AuditHead(id=wanted, hash=str(row["hash"]))
        self._met = self._met or self.head.hash == self._expect

    def end(self) -> AuditHead:
        """After the last row. AuditBroken if the hash that was kept is none of theirs."""
        if not self._met:
            raise _broken(
                None,
                f"no row has the hash {self._expect}: rows were taken from the end, or all were written anew",
            )
        return self.head


def _broken(row: int | None, why: str) -> AuditBroken:
    return AuditBroken(f"the audit log is not whole: {why}", hint="docs/guides/audit.md says what to do.", row=row)
