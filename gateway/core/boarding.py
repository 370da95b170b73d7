"""Onboarding and offboarding, here and on the clusters. Every step looks first and may be done again at any time.

Seen off: first the doors are closed (tokens, browsers, places in projects), then what runs is stopped, then Slurm's
associations go and the directories are packed. What was used stays in the ledger: rows of sessions are never removed.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from gateway.core import audit, projects, ruling, sessions, unix, users
from gateway.core.asking import may
from gateway.core.context import Cluster, Gateway
from gateway.errors import Conflict, Forbidden, Invalid, SluiceError, UserNotFound
from gateway.model.boarding import BoardRequest, BoardView, LeaveRequest, Step
from gateway.model.policy import Decision, PersonAction
from gateway.model.principal import Principal
from gateway.model.project import ProjectView
from gateway.model.user import UNIX_NAME, USER_NAME, NewUser, UnixAccount, User, UserRequest, UserView
from gateway.store import sessions as store
from gateway.store.sessions import SessionQuery

_TIMEOUT = 120.0
_MOST = 500
#: For its owner's eyes alone, as the directory was; an archive of before stays.
_PACK = """set -e; umask 077
rm -f -- "$1.tar.gz.part"
tar -czf "$1.tar.gz.part" -- "$1"
mv --backup=numbered -- "$1.tar.gz.part" "$1.tar.gz"
rm -rf -- "$1"
"""
Act = Callable[[], Awaitable[object]]


@dataclass
class _Work:
    """The steps so far; what fails is told and does not keep the others from being done."""

    dry: bool
    leaving: bool = False
    steps: list[Step] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(step.outcome == "failed" for step in self.steps)

    async def step(self, what: str, act: Act | None) -> None:
        """`act` is None where nothing is to do."""
        if act is None:
            self.steps.append(Step(what=what, outcome="already"))
        elif self.dry:
            self.steps.append(Step(what=what, outcome="would"))
        else:
            try:
                await act()
                self.steps.append(Step(what=what, outcome="done"))
            except SluiceError as error:
                later = isinstance(error, Conflict) and self.leaving
                self.steps.append(Step(what=what, outcome="later" if later else "failed", message=error.message))

    def view(self, user: str) -> BoardView:
        complete = all(step.outcome in {"done", "already"} for step in self.steps)
        return BoardView(user=user, complete=complete, steps=tuple(self.steps))


async def take_on(gateway: Gateway, caller: Principal, name: str, request: BoardRequest) -> BoardView:
    """A user with a place in a project, an association under its account, and a directory for their sessions."""
    if not re.fullmatch(USER_NAME, name):
        raise Invalid(
            f"{name!r} cannot be a user's name",
            hint="Small letters, digits, `.`, `_` and `-`, at most 63, the first a letter or a digit.",
        )
    before = await _find(gateway, caller, name)
    decision = await _decided(gateway, caller, "user.take_on", before or _nobody_yet(gateway, name))
    project = await projects.get(gateway, caller, request.project)
    if before is not None:
        _welcome(before, request)
    accounts = _accounts(gateway, before, project, name, request)
    for account in accounts:
        uid = await unix.look_up(gateway.cluster(account.cluster), account.name)
        unix.check(gateway, account.name, uid)
    work = _Work(request.dry_run)
    known = {(account.cluster, account.name) for account in before.unix} if before is not None else set()
    new = NewUser(name=name, unix=accounts, identity=request.identity)
    await work.step(f"user {name}", None if before is not None else lambda: users.create(gateway, caller, new))
    if before is not None:
        same = known >= {(account.cluster, account.name) for account in accounts}
        change = UserRequest(unix=accounts)
        await work.step("Unix users", None if same else lambda: users.change(gateway, caller, name, change))
        if before.state == "pending":
            await work.step("let in", lambda: users.change(gateway, caller, name, UserRequest(state="active")))
    here = any(member.user == name and member.role is request.role for member in project.members)
    role = request.role
    await work.step(
        f"{role} of project {project.name}",
        None if here else lambda: projects.set_member(gateway, caller, project.name, name, role),
    )
    for share in () if work.failed else project.shares:  # nobody runs who is not known here
        account = next(each for each in accounts if each.cluster == share.cluster)
        await _associate(work, gateway.cluster(share.cluster), account.name, share.account, share.qos)
    return await _told(gateway, caller, "user.take_on", work.view(name), decision, dry=request.dry_run)


async def see_off(gateway: Gateway, caller: Principal, name: str, request: LeaveRequest) -> BoardView:
    """Nobody comes in by this name again, nothing runs under it, and its directories are packed away."""
    view = await _find(gateway, caller, name)
    decision = await _decided(gateway, caller, "user.see_off", view or _nobody_yet(gateway, name))
    view = view or await users.get(gateway, caller, name)
    work = _Work(request.dry_run, leaving=True)
    shares = [(project, share) for project in await projects.list_projects(gateway, caller) for share in project.shares]
    gone = view.state == "removed"
    await work.step("tokens, sign-ins, places", None if gone else lambda: users.remove(gateway, caller, name))
    query = SessionQuery(ended=False, owner=name, limit=_MOST)
    live, _ = await gateway.db.read(store.find, caller, query)
    for session in live:
        asked = session.stop_requested_at is not None
        await work.step(f"stop {session.name}", None if asked else partial(sessions.stop, gateway, caller, session.id))
    if live and not request.dry_run:
        work.steps.append(Step(what="sessions end", outcome="later", message=f"{len(live)} are still ending"))
    for account in view.unix:
        cluster = gateway.cluster(account.cluster)
        mine = {share.account for _, share in shares if share.cluster == account.cluster}
        await _dissociate(work, cluster, account.name, mine)
        if request.archive and not live:
            await _archive(work, cluster, account.name)
    return await _told(gateway, caller, "user.see_off", work.view(name), decision, dry=request.dry_run)


async def _told(
    gateway: Gateway, caller: Principal, action: str, view: BoardView, decision: Decision, *, dry: bool
) -> BoardView:
    """What was done on the clusters, for the audit log; what was done here has rows of its own."""
    if not dry:
        steps = {step.what: step.outcome for step in view.steps}
        told = audit.by(gateway, caller)
        await gateway.db.write(audit.record, told, action, "user", view.user, policy=decision.policy, details={**steps})
    return view


async def _associate(work: _Work, cluster: Cluster, user: str, account: str, qos: tuple[str, ...]) -> None:
    what = f"association of {user} with {account} on {cluster.name}"
    keeper = cluster.accounts
    if keeper is None:
        await work.step(what, _nobody(cluster))
    else:
        held = [set(each.qos) for each in await keeper.held(user) if each.account == account]
        enough = bool(held) and all(each >= set(qos) for each in held)
        await work.step(what, None if enough else lambda: keeper.add(user, account, qos))
    root = cluster.settings.session_root
    if not root.startswith("/"):
        there = await _run(cluster, user, ["test", "-d", root])
        await work.step(
            f"directory ~{user}/{root} on {cluster.name}",
            None if there else lambda: _must(cluster, user, ["mkdir", "-p", "-m", "0700", "--", root]),
        )


async def _dissociate(work: _Work, cluster: Cluster, user: str, accounts: set[str]) -> None:
    keeper = cluster.accounts
    if keeper is None:
        await work.step(f"associations of {user} on {cluster.name}", _nobody(cluster))
        return
    held = sorted({each.account for each in await keeper.held(user)} & accounts)
    what = f"associations of {user} with {', '.join(held)} on {cluster.name}" if held else f"associations of {user}"
    await work.step(what, partial(keeper.remove, user, held) if held else None)


async def _archive(work: _Work, cluster: Cluster, user: str) -> None:
    """Their own files, packed as themselves, in their own home: nothing is lost, and nothing changes hands."""
    root = cluster.settings.session_root
    if root.startswith("/"):
        return
    there = await _run(cluster, user, ["test", "-d", root])
    packing = ["sh", "-c", _PACK, "sh", root]
    what = f"pack ~{user}/{root} on {cluster.name}"
    await work.step(what, (lambda: _must(cluster, user, packing)) if there else None)


async def _run(cluster: Cluster, user: str, argv: list[str]) -> bool:
    if cluster.shell is None:
        return False
    return (await cluster.shell.run(argv, user=user, timeout=_TIMEOUT)).returncode == 0


async def _must(cluster: Cluster, user: str, argv: list[str]) -> None:
    if cluster.shell is None:
        raise Forbidden(f"no commands can be run on cluster {cluster.name}")
    done = await cluster.shell.run(argv, user=user, timeout=_TIMEOUT)
    if done.returncode != 0:
        raise Forbidden(f"as {user} on {cluster.name}: {done.stderr.strip()}")


def _welcome(before: UserView, request: BoardRequest) -> None:
    """Conflict where what is asked cannot be had of somebody who is known already."""
    if before.state == "removed":
        raise Conflict(f"{before.name} was removed", hint="Names are never given twice: choose another.")
    if before.state == "disabled":
        raise Conflict(
            f"{before.name} is kept out", hint=f"Let them in again first: sluice user set {before.name} --admit"
        )
    if before.state == "pending" and before.identities and request.identity is None:
        known = before.identities[0]
        raise Conflict(
            f"{before.name} is how somebody is called who waits: {known.subject} at {known.issuer}",
            hint=f"Anybody may be called so. If it is them: --identity '{known.issuer}#{known.subject}'",
        )
    if request.identity is not None and request.identity not in before.identities:
        raise Conflict(
            f"{before.name} is there already, and does not sign in as {request.identity.subject}",
            hint="An identity is given to a new user alone: leave it away, or choose another name.",
        )


def _nobody(cluster: Cluster) -> Act:
    async def act() -> None:
        raise Forbidden(f"no operator of Slurm is named: clusters.{cluster.name}.operator_user")

    return act


async def _find(gateway: Gateway, caller: Principal, name: str) -> UserView | None:
    try:
        return await users.get(gateway, caller, name)
    except UserNotFound:
        return None


def _accounts(
    gateway: Gateway, before: UserView | None, project: ProjectView, name: str, request: BoardRequest
) -> tuple[UnixAccount, ...]:
    """Their Unix user on every cluster: as asked, else as it was, else called as they are."""
    found = {account.cluster: account.name for account in before.unix} if before is not None else {}
    for share in project.shares:
        found.setdefault(share.cluster, name)
    found |= request.unix
    for cluster, word in found.items():
        if not re.fullmatch(UNIX_NAME, word):
            raise Invalid(
                f"{word!r} cannot be a Unix user's name on cluster {cluster}",
                hint="Say as whom they run there: `unix`, or `--unix CLUSTER=USER`.",
            )
    return tuple(UnixAccount(cluster=gateway.cluster(cluster).name, name=word) for cluster, word in found.items())


async def _decided(gateway: Gateway, caller: Principal, action: PersonAction, about: User) -> Decision:
    """Somebody whom the caller may not know of is like somebody who is not there. PolicyDenied."""
    return await gateway.db.read(
        lambda connection: may(gateway, caller, action, ruling.user(connection, about, new=not about.id))
    )


def _nobody_yet(gateway: Gateway, name: str) -> User:
    return User.model_construct(id="", name=name, created_at=gateway.clock())
