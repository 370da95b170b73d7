"""What no policy of a site's changes: rules of the gateway's own, each with a name that its denials carry. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.errors import Forbidden


class Fixed(NamedTuple):
    """A rule: its name, what it allows in words, and the setting or command by which more is said of it, if any."""

    name: str
    allows: str
    said_by: str = ""


_RULES = (
    Fixed("fixed-pages", "the owner of a session alone opens its pages: whoever does acts as them"),
    Fixed("fixed-enter", "the owner of a session alone goes into its job: whoever does acts as them"),
    Fixed("fixed-again", "the owner of a session alone updates and resumes it: what it runs, it runs as them"),
    Fixed("fixed-change", "the owner of a session, managers of its project and operators stop, delete and scale it"),
    Fixed("fixed-call", "the owner of a session and members of its project use it; viewers read about it"),
    Fixed("fixed-results", "the owner of a task alone reads its results"),
    Fixed("fixed-member", "members and managers of a project start sessions in it", "sluice project member"),
    Fixed("fixed-account", "a session starts where its project has a Slurm account", "sluice project set --account"),
    Fixed(
        "fixed-shares",
        "a session runs under its project's Slurm account, with the project's QOS and partitions",
        "sluice project set",
    ),
    Fixed(
        "fixed-unix-user", "people start work on clusters where an operator gave them a Unix user", "sluice user set"
    ),
    Fixed("fixed-unix-root", "work runs as people's own Unix users, never as root"),
    Fixed("fixed-unix-name", "a Unix user is one that the cluster knows, with a name as Unix has them"),
    Fixed("fixed-unix-denied", "Unix users that are not on the list", "identity.denied_unix_users"),
    Fixed("fixed-unix-floor", "Unix users with a uid from the floor on", "identity.uid_floor"),
    Fixed("fixed-unix-same", "a Unix user is the one that it was, by its uid", "sluice user set --unix"),
    Fixed("fixed-pending", "an operator lets people in who came by themselves", "identity.oidc.unknown"),
    Fixed("fixed-state", "accounts that are switched on", "sluice user set --state"),
    Fixed("fixed-somebody", "people and service accounts keep things and tokens of their own"),
    Fixed("fixed-ask-as", "everybody asks what they may themselves, operators what anybody may"),
    Fixed("fixed-audit-head", "operators see the whole audit log, everybody the rows about their own"),
    Fixed("fixed-same-origin", "pages of this gateway do things in the name of who is signed in; others show a token"),
)
FIXED: Mapping[str, Fixed] = {rule.name: rule for rule in _RULES}
WHERE = "fixed"
"""In place of a file and a line."""


def forbidden(name: str, message: str, hint: str = "", **details: Any) -> Forbidden:
    """A denial by one of these rules: it names it, and says what would be allowed. `hint`: more than its own words."""
    rule = FIXED[name]
    said = f"Allowed: {rule.allows}{f' ({rule.said_by})' if rule.said_by else ''}."
    reason = {"policy": rule.name, "allows": rule.allows, "asked": "", "where": WHERE}
    return Forbidden(
        message, hint=f"{said} {hint}".rstrip(), policy=rule.name, said_by=rule.said_by, policies=[reason], **details
    )
