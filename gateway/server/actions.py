"""What the audit log calls the operations of the API that change something; a test of the house finds any other."""

import re
from collections.abc import Mapping
from functools import cache

from starlette.routing import compile_path
from starlette.types import Scope

from gateway.web.openapi import Api
from gateway.web.refusals import Naming, Wanted

#: By operation id: the action, the kind of its object, and the parameter of the path that names the object.
ACTIONS: Mapping[str, tuple[str, str, str]] = {
    "createSession": ("session.create", "session", ""),
    "stopSession": ("session.stop", "session", "ref"),
    "scaleSession": ("session.scale", "session", "ref"),
    "extendSession": ("session.extend", "session", "ref"),
    "updateSession": ("session.update", "session", "ref"),
    "resumeSession": ("session.resume", "session", "ref"),
    "deleteSession": ("session.delete", "session", "ref"),
    "openSession": ("session.open", "session", "ref"),
    "createTask": ("task.create", "task", ""),
    "cancelTask": ("task.cancel", "task", "id"),
    "deleteTask": ("task.delete", "task", "id"),
    "setSecret": ("secret.set", "secret", "name"),
    "removeSecret": ("secret.remove", "secret", "name"),
    "setVolume": ("volume.set", "volume", "name"),
    "removeVolume": ("volume.remove", "volume", "name"),
    "createToken": ("token.create", "token", ""),
    "revokeToken": ("token.revoke", "token", "ref"),
    "createUser": ("user.create", "user", ""),
    "changeUser": ("user.change", "user", "name"),
    "takeOn": ("user.take_on", "user", "name"),
    "seeOff": ("user.see_off", "user", "name"),
    "removeUser": ("user.remove", "user", "name"),
    "createProject": ("project.create", "project", ""),
    "changeProject": ("project.change", "project", "name"),
    "archiveProject": ("project.archive", "project", "name"),
    "setMember": ("member.set", "user", "user"),
    "removeMember": ("member.remove", "user", "user"),
    "signIn": ("sign.in", "user", ""),
    "signInByMunge": ("sign.in", "user", ""),
}
#: Operations that are no GET and change nothing.
CHANGES_NOTHING = frozenset({"renderRecipe", "checkPolicy", "validatePolicies"})


def naming(app: Api) -> Naming:
    """Finds the operation that a request asks for, also where it was refused before any route was looked at."""

    @cache
    def operations() -> list[tuple[str, str, str, re.Pattern[str]]]:
        """Method, path, operation id and pattern of each, those with fewer parameters first."""
        paths = app.openapi()["paths"]
        return [
            (method.upper(), path, operation["operationId"], compile_path(path)[0])
            for path in sorted(paths, key=lambda path: path.count("{"))
            for method, operation in paths[path].items()
        ]

    def name(scope: Scope) -> Wanted | None:
        wanted = scope.get("method", "GET")
        for method, path, operation, pattern in operations():
            if method != wanted or (match := pattern.fullmatch(scope["path"])) is None:
                continue
            given = match.groupdict()
            action, kind, key = ACTIONS.get(operation, (f"{method} {path}", "", ""))
            object_ = given.get(key, "") if key else " ".join(given.values())
            project = given.get("name") if kind == "project" or key == "user" else None
            dry = {"dry_run": "true"} if b"dry_run=" in scope.get("query_string", b"") else {}
            return Wanted(action, kind, object_, project, dry)
        return None

    return name
