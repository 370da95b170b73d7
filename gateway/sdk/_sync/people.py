# Made from gateway/sdk/_async/people.py by `python gateway/sdk/generate.py`: change that one.
"""Tokens, projects and users, as far as the caller may know of them."""

from collections.abc import Mapping, Sequence

from gateway.model.api import Page
from gateway.model.boarding import BoardRequest, BoardView, LeaveRequest
from gateway.model.principal import Role
from gateway.model.project import MemberRequest, NewProject, ProjectRequest, ProjectState, ProjectView
from gateway.model.secret import SecretView
from gateway.model.token import NewTokenView, TokenRequest, TokenView
from gateway.model.user import NewUser, UserRequest, UserState, UserView
from gateway.sdk import wire
from gateway.sdk._sync.transport import Transport


class Tokens:
    """Sluice's own tokens."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, request: TokenRequest) -> NewTokenView:
        """The token with its text, which is shown this once."""
        return wire.read(NewTokenView, self._transport.send(wire.write("POST", "/tokens", request)))

    def list(self, *, revoked: bool = False) -> list[TokenView]:
        """Yours, and those of the service accounts that you keep; newest first."""
        call = wire.get("/tokens", revoked="true" if revoked else None)
        return wire.read(Page[TokenView], self._transport.send(call)).items

    def revoke(self, ref: str) -> TokenView:
        """By id or name. When this returns nobody takes it any more. TokenNotFound."""
        return wire.read(TokenView, self._transport.send(wire.write("DELETE", f"/tokens/{wire.quoted(ref)}")))


class Projects:
    """Projects, their members and their Slurm accounts."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Sequence[ProjectView]:
        """Yours; operators see all."""
        return wire.read(Page[ProjectView], self._transport.send(wire.get("/projects"))).items

    def get(self, name: str) -> ProjectView:
        """ProjectNotFound."""
        return wire.read(ProjectView, self._transport.send(wire.get(_project(name))))

    def create(self, request: NewProject) -> ProjectView:
        return wire.read(ProjectView, self._transport.send(wire.write("POST", "/projects", request)))

    def change(self, name: str, request: ProjectRequest) -> ProjectView:
        return wire.read(ProjectView, self._transport.send(wire.write("PATCH", _project(name), request)))

    def set_state(self, name: str, state: ProjectState) -> ProjectView:
        """Archive a project, or make it active again."""
        body: Mapping[str, str] = {"state": state}
        call = wire.Call(method="PUT", path=f"{_project(name)}/state", body=body, repeatable=True)
        return wire.read(ProjectView, self._transport.send(call))

    def set_member(self, name: str, user: str, role: Role) -> ProjectView:
        """Take somebody in, or give them another role."""
        call = wire.write("PUT", f"{_project(name)}/members/{wire.quoted(user)}", MemberRequest(role=role))
        return wire.read(ProjectView, self._transport.send(call))

    def remove_member(self, name: str, user: str) -> ProjectView:
        call = wire.write("DELETE", f"{_project(name)}/members/{wire.quoted(user)}")
        return wire.read(ProjectView, self._transport.send(call))


class Users:
    """Who may come in, and as whom they run."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, state: UserState | None = None) -> Sequence[UserView]:
        """Those that you may know of."""
        return wire.read(Page[UserView], self._transport.send(wire.get("/users", state=state))).items

    def get(self, name: str) -> UserView:
        """UserNotFound."""
        return wire.read(UserView, self._transport.send(wire.get(f"/users/{wire.quoted(name)}")))

    def create(self, request: NewUser) -> UserView:
        return wire.read(UserView, self._transport.send(wire.write("POST", "/users", request)))

    def change(self, name: str, request: UserRequest) -> UserView:
        call = wire.write("PATCH", f"/users/{wire.quoted(name)}", request)
        return wire.read(UserView, self._transport.send(call))

    def take_on(self, name: str, request: BoardRequest) -> BoardView:
        """User, place in a project, association and directory; again at will."""
        call = wire.write("POST", f"/users/{wire.quoted(name)}/onboarding", request)
        return wire.read(BoardView, self._transport.send(call))

    def see_off(self, name: str, request: LeaveRequest) -> BoardView:
        """Doors closed, sessions stopped, associations taken, directories packed; again, until it is complete."""
        call = wire.write("POST", f"/users/{wire.quoted(name)}/offboarding", request)
        return wire.read(BoardView, self._transport.send(call))

    def remove(self, name: str) -> UserView:
        return wire.read(UserView, self._transport.send(wire.write("DELETE", f"/users/{wire.quoted(name)}")))


class Secrets:
    """Named secrets: yours, and those of your projects. Values go in and never come out."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Sequence[SecretView]:
        """Those that you may use."""
        return wire.read(Page[SecretView], self._transport.send(wire.get("/secrets"))).items

    def get(self, name: str, *, project: str | None = None) -> SecretView:
        """Whose it is, and when it got its value. SecretNotFound."""
        return wire.read(SecretView, self._transport.send(wire.get(_secret(name), project=project)))

    def set(self, name: str, value: str, *, project: str | None = None) -> SecretView:
        """Keep a value, in the place of the one before."""
        return wire.read(SecretView, self._transport.send(wire.secret("PUT", _secret(name), project, value)))

    def remove(self, name: str, *, project: str | None = None) -> None:
        """SecretNotFound."""
        self._transport.send(wire.secret("DELETE", _secret(name), project))


def _secret(name: str) -> str:
    return f"/secrets/{wire.quoted(name)}"


def _project(name: str) -> str:
    return f"/projects/{wire.quoted(name)}"
