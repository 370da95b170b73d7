"""From what a provider says of somebody to a user of ours: pure, by the site's mapping."""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from gateway.model.principal import Role


class ClaimRules(BaseModel):
    """The site's mapping; see the settings under `identity.oidc`."""

    model_config = ConfigDict(frozen=True)

    name_claim: str
    unix_user: str
    unix_claim: str
    unix_users: Mapping[str, str]
    groups_claim: str
    groups: Mapping[str, str]
    admin_groups: tuple[str, ...]
    operator_groups: tuple[str, ...]


class Described(BaseModel):
    """Somebody as the provider describes them. `unix` is who they say to be: it is checked before it counts."""

    model_config = ConfigDict(frozen=True)

    name: str
    title: str = ""
    email: str = ""
    groups: tuple[str, ...] = ()
    roles: Mapping[str, Role] = {}
    unix: str | None = None
    admin: bool = False
    operator: bool = False


def describe(claims: Mapping[str, Any], rules: ClaimRules, projects: Collection[str]) -> Described:
    """What the claims say; places in projects that do not exist are left out."""
    groups = _groups(claims.get(rules.groups_claim))
    roles: dict[str, Role] = {}
    for group in groups:
        project, _, word = rules.groups.get(group, "").partition(":")
        if project in projects and word in set(Role):
            role = Role(word)
            before = roles.get(project)
            roles[project] = role if before is None or role.reaches(before) else before
    subject = str(claims.get("sub", ""))
    return Described(
        name=_text(claims, rules.name_claim) or _text(claims, "preferred_username") or subject,
        title=_text(claims, "name"),
        email=_text(claims, "email"),
        groups=groups,
        roles=roles,
        unix=_unix(claims, rules, subject),
        admin=bool(set(groups) & set(rules.admin_groups)),
        operator=bool(set(groups) & set(rules.operator_groups)),
    )


def _unix(claims: Mapping[str, Any], rules: ClaimRules, subject: str) -> str | None:
    match rules.unix_user:
        case "claim" | "getent":
            return _text(claims, rules.unix_claim) or None
        case "table":
            return rules.unix_users.get(subject)
        case _:
            return None


def _groups(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    return tuple(sorted({str(item) for item in value})) if isinstance(value, list) else ()


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) else ""
