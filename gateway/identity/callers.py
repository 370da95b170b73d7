"""From a token or a cookie to the caller, out of memory: what is known of a caller is good while nothing has changed.

Every change of who may do what raises one number in the database, and no process goes by what it knows for longer
than FRESH seconds without looking at that number: a revocation that waited as long has reached every replica. While
the database is away, those who are known go on for PATIENCE seconds; nobody new comes in.
"""

import asyncio
import hashlib
import hmac
import os
import pwd
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection

from gateway.core import signin, unix
from gateway.core.context import Gateway
from gateway.core.users import FRESH
from gateway.errors import DatabaseUnavailable, NotFound, SluiceError, Unauthenticated
from gateway.identity.local import TOKEN_PREFIX, LocalIdentity
from gateway.identity.munge import PREFIX as MUNGE
from gateway.identity.munge import Munge
from gateway.identity.oidc import Oidc
from gateway.model import token as tokens
from gateway.model.auth import MungeToken
from gateway.model.fixed import forbidden
from gateway.model.principal import LOCAL_ADMIN, Opened, Origin, Principal, Scope, SignedIn
from gateway.model.token import Token
from gateway.model.user import Person, UnixAccount
from gateway.store import revision, signins, users
from gateway.store import tokens as store

log = structlog.get_logger(__name__)

PATIENCE = 300.0
PEER_FOR = timedelta(minutes=5)
NOTE_USE = timedelta(minutes=1)
MOST = 20_000
_NOTHING = tokens.digest("")


@dataclass(frozen=True)
class _Known:
    principal: Principal
    until: datetime


class Callers:
    """Everybody who may call, by what they show."""

    def __init__(
        self, gateway: Gateway, local: LocalIdentity, provider: Oidc | None = None, munge: Munge | None = None
    ) -> None:
        self.munge = munge
        self._db, self._clock = gateway.db, gateway.clock
        self._gateway, self._local, self.provider = gateway, local, provider
        self._known: dict[bytes, _Known] = {}
        self._number = -1
        self._looked = float("-inf")
        self._looking = asyncio.Lock()
        self._used: dict[str, datetime] = {}
        self._notes: set[asyncio.Task[None]] = set()

    def recall(self, text: str) -> Principal | None:
        """The holder of a token, if that is in memory and was looked after in the last FRESH seconds."""
        if text.startswith(TOKEN_PREFIX):
            return self._local.authenticate(text)
        if time.monotonic() - self._looked > FRESH:
            return None
        return self._recall(self._place(text))

    async def authenticate(self, text: str, origin: Origin = "api") -> Principal:
        """The holder of a token. Unauthenticated, or Forbidden if they are not let in."""
        if text.startswith(TOKEN_PREFIX):
            return _from(self._local.authenticate(text), origin)
        await self._look()
        key = self._place(text)
        found = self._recall(key)
        if found is None:
            if text.startswith(MUNGE):
                found = await self._of_munge(key, text)
            elif (parts := tokens.parse(text)) is not None:
                found = await self._of_token(key, *parts)
            elif self.provider is not None and text.count(".") == 2:  # noqa: PLR2004 - a JWT has three parts
                found = await self._of_provider(key, self.provider, text)
            else:
                raise _invalid()
        self._note(found)
        return _from(found, origin)

    async def by_cookie(self, value: str) -> Principal:
        """Who is signed in in a browser. Unauthenticated if nobody is, any more."""
        await self._look()
        key = b"cookie" + _key(value)
        if (found := self._recall(key)) is not None:
            return found
        digest = tokens.digest(value)

        def load(connection: Connection) -> tuple[int, signins.Browser, Person | None] | None:
            browser = signins.by_cookie(connection, digest)
            if browser is None:
                return None
            return revision.current(connection), browser, users.person(connection, browser.user_id)

        loaded = await self._db.read(load)
        number, browser, person = loaded if loaded is not None else (0, None, None)
        if browser is None or person is None or browser.expires_at <= self._clock():
            raise Unauthenticated("you are signed out", hint="Sign in again: /auth/login")
        by = SignedIn(browser.issuer, browser.subject, browser.sid, digest)
        return self._keep(key, number, _signed(person.principal(origin="browser"), by), browser.expires_at)

    def recall_opened(self, opened: Opened) -> Principal | None:
        """Who opened a session in a browser, if they are in memory and were looked after in the last FRESH seconds."""
        if time.monotonic() - self._looked > FRESH:
            return None
        return self._recall(_place_of(opened))

    async def by_opened(self, opened: Opened) -> Principal:
        """Who opened a session in a browser, as they are now. Unauthenticated, or Forbidden if they are not let in."""
        await self._look()
        key = _place_of(opened)
        if (found := self._recall(key)) is not None:
            return found

        def load(connection: Connection) -> tuple[int, Token | None, signins.Browser | None, Person | None]:
            user_id = users.id_of(connection, opened.owner)
            kept = store.kept(connection, opened.token) if opened.token is not None else None
            browser = signins.by_cookie(connection, opened.sign_in) if opened.sign_in is not None else None
            person = users.person(connection, user_id) if user_id is not None else None
            return revision.current(connection), kept[0] if kept is not None else None, browser, person

        number, token, browser, person = await self._db.read(load)
        if person is None:
            raise Unauthenticated("whoever opened this session is not known any more")
        until = self._clock() + PEER_FOR
        if opened.token is not None:
            if token is None or token.user_id != person.user.id or not token.valid(self._clock()):
                raise Unauthenticated("the token that opened this session is good no more", hint="sluice open")
            until = min(until, token.expires_at)
        if opened.sign_in is not None:
            if browser is None or browser.user_id != person.user.id or browser.expires_at <= self._clock():
                raise Unauthenticated("the sign-in in which this session was opened has ended", hint="sluice open")
            until = min(until, browser.expires_at)
        held = {"session": opened.session, "scopes": frozenset({Scope.WRITE}), "admin": False, "operator": False}
        held |= {"token": opened.token}
        return self._keep(key, number, person.principal(origin="browser").model_copy(update=held), until)

    async def by_peer(self, uid: int) -> Principal:
        """Whose process calls on this machine. Who runs the gateway could read its token, so they are who holds it."""
        if uid == os.geteuid():
            return _from(LOCAL_ADMIN, "socket")
        await self._look()
        key = f"uid {uid}".encode()
        if (found := self._recall(key)) is not None:
            return found
        name = await asyncio.to_thread(_unix_name, uid)
        cluster, _ = self._gateway.settings.cluster(self._gateway.settings.identity.socket_cluster)
        return await self._of_unix(key, UnixAccount(cluster=cluster, name=name, uid=uid), self._clock() + PEER_FOR)

    async def by_munge(self, credential: str) -> MungeToken:
        """A token for whoever a MUNGE credential says, if they are let in. Unauthenticated, Forbidden, NotFound."""
        if self.munge is None:
            raise NotFound("this gateway does not know people by MUNGE", hint="Settings: identity.munge.hosts.")
        token, vouched = await self.munge.admit(credential)
        _, person = await self._whose(UnixAccount(cluster=self.munge.cluster, name=vouched.name, uid=vouched.uid))
        await signin.vouched(self._gateway, person.user, {"by": "munge", "uid": vouched.uid})
        person.principal(origin="socket")  # only who is let in has a token
        return token

    async def _of_munge(self, key: bytes, text: str) -> Principal:
        vouched = self.munge.open(text) if self.munge is not None else None
        if self.munge is None or vouched is None:
            raise _invalid()
        account = UnixAccount(cluster=self.munge.cluster, name=vouched.name, uid=vouched.uid)
        by = SignedIn(f"munge:{self.munge.cluster}", vouched.name)
        return await self._of_unix(key, account, vouched.until, by)

    async def _of_unix(
        self, key: bytes, account: UnixAccount, until: datetime, by: SignedIn | None = None
    ) -> Principal:
        number, person = await self._whose(account)
        principal = person.principal(origin="socket")
        return self._keep(key, number, principal if by is None else _signed(principal, by), until)

    async def _whose(self, account: UnixAccount) -> tuple[int, Person]:
        """The user whom a Unix user means; who is new is let in or kept waiting, as the site wants it."""
        cluster, name, uid = account.cluster, account.name, account.uid
        unix.check(self._gateway, name, uid)

        def load(connection: Connection) -> tuple[int, Person | None]:
            user = users.by_unix(connection, cluster, name)
            return revision.current(connection), users.person(connection, user.id) if user is not None else None

        number, person = await self._db.read(load)
        if person is None:
            person = await signin.meet(self._gateway, account)
        mine = next(known for known in person.unix if known.cluster == cluster)
        if mine.uid not in (None, uid):
            raise forbidden(
                "fixed-unix-same",
                f"the Unix user {name} is another one than it was (uid {mine.uid}, now {uid})",
                f"An operator looks, and says so: sluice user set {person.user.name} --unix {cluster}={name}",
            )
        return number, person

    async def _of_token(self, key: bytes, token_id: str, secret: str) -> Principal:
        def load(connection: Connection) -> tuple[int, tuple[Token, str] | None, Person | None]:
            kept = store.kept(connection, token_id)
            person = users.person(connection, kept[0].user_id) if kept is not None else None
            return revision.current(connection), kept, person

        number, kept, person = await self._db.read(load)
        right = hmac.compare_digest(tokens.digest(secret), kept[1] if kept is not None else _NOTHING)
        if not right or kept is None or person is None:
            raise _invalid()
        token = kept[0]
        if token.revoked_at is not None:
            raise Unauthenticated(f"the token {token.name!r} was revoked", hint="`sluice token create` makes another.")
        if not token.valid(self._clock()):
            raise Unauthenticated(f"the token {token.name!r} has expired", hint="`sluice token create` makes another.")
        return self._keep(key, number, person.principal(token=token), token.expires_at)

    async def _of_provider(self, key: bytes, provider: Oidc, text: str) -> Principal:
        verified = await provider.verify(text)

        def load(connection: Connection) -> tuple[int, Person | None]:
            user = users.by_identity(connection, verified.identity)
            return revision.current(connection), users.person(connection, user.id) if user is not None else None

        number, person = await self._db.read(load)
        if person is None:
            person = await signin.admit(self._gateway, verified.identity, verified.claims)
        sid = verified.claims.get("sid")
        by = SignedIn(verified.identity.issuer, verified.identity.subject, str(sid) if sid else None)
        return self._keep(key, number, _signed(person.principal(), by), verified.until)

    def _place(self, text: str) -> bytes:
        """Where a token is remembered. When the provider's keys change, what they had signed is looked at anew."""
        return _key(text) + (b"%d" % self.provider.generation if self.provider is not None else b"")

    def _recall(self, key: bytes) -> Principal | None:
        found = self._known.get(key)
        return found.principal if found is not None and self._clock() < found.until else None

    def _keep(self, key: bytes, number: int, principal: Principal, until: datetime) -> Principal:
        """Remember, unless what was read is older than what we have seen since."""
        if number == self._number:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[key] = _Known(principal, until)
        return principal

    async def _look(self) -> None:
        """Make sure that what is known was still right less than FRESH seconds ago."""
        if time.monotonic() - self._looked <= FRESH:
            return
        async with self._looking:
            began = time.monotonic()
            if began - self._looked <= FRESH:
                return
            try:
                number = await self._db.read(revision.current)
            except DatabaseUnavailable as error:
                if began - self._looked < PATIENCE:
                    log.warning("callers are not looked after", error=error.message)
                    return
                raise
            if number != self._number:
                self._known.clear()
                self._number = number
            self._looked = began

    def _note(self, principal: Principal) -> None:
        """Keep when a token was used, to the minute."""
        token, now = principal.token, self._clock()
        if token is None or now < self._used.get(token, now - NOTE_USE) + NOTE_USE:
            return
        if len(self._used) >= MOST:
            self._used.clear()
        self._used[token] = now
        task = asyncio.create_task(self._keep_use(token, now))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _keep_use(self, token: str, now: datetime) -> None:
        try:
            await self._db.write(store.used, token, now)
        except SluiceError as error:
            log.warning("the use of a token was not kept", error=error.message)


def _signed(principal: Principal, by: SignedIn) -> Principal:
    return principal.model_copy(update={"sign_in": by})


def _unix_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError as error:
        raise Unauthenticated(f"this machine knows no user with the uid {uid}") from error


def _place_of(opened: Opened) -> bytes:
    return f"opened {opened.session} {opened.owner} {opened.token} {opened.sign_in}".encode()


def _key(text: str) -> bytes:
    """What is remembered of a secret: not the secret."""
    return hashlib.sha256(text.encode()).digest()


def _from(principal: Principal, origin: Origin) -> Principal:
    return principal if principal.origin == origin else principal.model_copy(update={"origin": origin})


def _invalid() -> Unauthenticated:
    return Unauthenticated(
        "this token is not valid here", hint="`sluice login` signs you in; `sluice env` prints the token in force."
    )
