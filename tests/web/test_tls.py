"""TLS by certificate files: spoken on every port, renewed while it is spoken, and believed only where it should be."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization

from gateway.cli.main import main
from gateway.client.app import parts
from gateway.errors import Invalid, NotTrusted, SettingsInvalid
from gateway.identity.opening import open_callers
from gateway.sdk import AsyncSluice
from gateway.server.app import part
from gateway.settings import ServeSettings
from gateway.web.app import Web
from gateway.web.serving import running
from gateway.web.tls import Certificate
from tests.certificates import Authority, Pair
from tests.services import Site, a_site


@asynccontextmanager
async def served(site: Site, pair: Pair, *, data_plane: bool) -> AsyncIterator[str]:
    """The API over TLS, by the frame alone, or behind the front of the data plane."""
    more = parts(site.gateway) if data_plane else []
    web = Web([part(site.gateway), *more], open_callers(site.gateway))
    async with running(web, grace=2, tls=Certificate(pair.certificate, pair.key)) as url:
        yield url


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with a_site(tmp_path) as made:
        yield made


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize("data_plane", [False, True])
async def test_every_port_speaks_tls_and_tells_browsers_to_stay_with_it(
    site: Site, authority: Authority, data_plane: bool
) -> None:
    async with served(site, authority.signs("gw"), data_plane=data_plane) as url:
        context = ssl.create_default_context(cafile=authority.file)
        async with httpx.AsyncClient(base_url=url, verify=context, headers=site.auth, timeout=60) as http:
            me = await http.get("/api/v1/me")
            assert (me.status_code, me.json()["name"]) == (200, "admin")
            assert me.headers["strict-transport-security"] == "max-age=31536000"
            if data_plane:
                models = await http.get("/v1/models")
                assert (models.status_code, models.json()["data"]) == (200, [])
                assert models.headers["strict-transport-security"] == "max-age=31536000"
                assert (await http.get("/s/none/")).headers["strict-transport-security"] == "max-age=31536000"
        async with AsyncSluice(url, site.token, ca=authority.file) as sluice:
            assert (await sluice.me()).name == "admin"
        async with httpx.AsyncClient(base_url=url.replace("https:", "http:")) as http:
            with pytest.raises(httpx.TransportError):
                await http.get("/health/live", timeout=60)
        assert "no peer certificate available" in await spoken(url, "-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0")
        assert "Protocol  : TLSv1.2" in await spoken(url, "-tls1_2")


async def spoken(url: str, *options: str) -> str:
    """What OpenSSL's own client has to say of a handshake."""
    argv = ["openssl", "s_client", "-connect", url.removeprefix("https://"), *options]
    done = await asyncio.to_thread(subprocess.run, argv, input="", capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("data_plane", [False, True])
async def test_a_renewed_certificate_is_used_and_nobody_is_dropped(
    site: Site, authority: Authority, data_plane: bool
) -> None:
    pair, serials = authority.signs("gw"), Serials(authority.file)
    async with served(site, pair, data_plane=data_plane) as url:
        port = int(url.rpartition(":")[2])
        first = await serials.open(port)
        before = first.serial
        authority.signs("renewed").over(pair)
        await serials.until_other(port, before)
        assert await first.alive()
        pair.certificate.write_text("half of a certif")
        certificate_now = await serials.of(port)
        assert certificate_now != before
        assert await first.alive()
        await first.close()


class Line:
    """A connection that stays open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.serial = str(writer.get_extra_info("peercert")["serialNumber"])

    async def alive(self) -> bool:
        """Whether a request on it is answered."""
        self._writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(60):
            head = await self._reader.readuntil(b"\r\n\r\n")
            await self._reader.readexactly(len(b'{"status":"ok"}'))
        return head.startswith(b"HTTP/1.1 200")

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


class Serials:
    """Which certificate a port shows."""

    def __init__(self, ca: Path) -> None:
        self._context = ssl.create_default_context(cafile=ca)

    async def open(self, port: int) -> Line:
        return Line(*await asyncio.open_connection("127.0.0.1", port, ssl=self._context))

    async def until_other(self, port: int, before: str) -> None:
        async with asyncio.timeout(60):
            while await self.of(port) == before:
                continue

    async def of(self, port: int) -> str:
        line = await self.open(port)
        with suppress(OSError):  # how the port takes it that nothing is asked is not what is looked at
            await line.close()
        return line.serial


def test_a_pair_that_is_no_good_changes_nothing(authority: Authority) -> None:
    pair = authority.signs("gw")
    certificate = Certificate(pair.certificate, pair.key)
    assert not certificate.refresh()
    authority.signs("other").certificate.replace(pair.certificate)
    assert not certificate.refresh(), "its key is not there yet"
    (pair.key.parent / "other.key").replace(pair.key)
    assert certificate.refresh()
    pair.key.unlink()
    assert not certificate.refresh()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda pair: pair.certificate.unlink(), r"gw\.crt: No such file"),
        (lambda pair: pair.certificate.write_text("nothing"), r"gw\.crt: there is no certificate in it"),
        (lambda pair: pair.key.unlink(), r"gw\.key: No such file"),
        (lambda pair: pair.key.write_text("nothing"), r"gw\.key: there is no private key in it"),
        (lambda pair: pair.key.chmod(0o644), r"gw\.key: everybody may read the key"),
    ],
)
def test_files_that_are_no_good_are_told_by_name(
    authority: Authority, spoil: Callable[[Pair], object], says: str
) -> None:
    pair = authority.signs("gw")
    spoil(pair)
    with pytest.raises(SettingsInvalid, match=rf"serve\.tls_(certificate|key)_file: .*{says}") as told:
        Certificate(pair.certificate, pair.key)
    assert told.value.code == "settings_invalid"


def test_a_key_of_another_certificate_or_with_a_pass_phrase_is_told(authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.signs("gw"), authority.signs("other")
    with pytest.raises(SettingsInvalid, match=r"other\.key: it does not belong to .*gw\.crt"):
        Certificate(pair.certificate, other.key)
    locked = tmp_path / "locked.key"
    locked.write_bytes(_locked(pair.key))
    locked.chmod(0o600)
    with pytest.raises(SettingsInvalid, match="the key has a pass phrase"):
        Certificate(pair.certificate, locked)
    for alone in ({"tls_certificate_file": pair.certificate}, {"tls_key_file": pair.key}):
        with pytest.raises(SettingsInvalid, match=r"serve\.tls_.*_file is missing"):
            Certificate.of(ServeSettings.model_validate(alone))
    assert Certificate.of(ServeSettings()) is None


def _locked(key: Path) -> bytes:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"a pass phrase"),
    )


async def whoami(url: str, token: str, **environment: str) -> Result:
    """The command, in a thread of its own: the gateway is in this one."""
    env = {"SLUICE_URL": url, "SLUICE_TOKEN": token, **environment}
    return await asyncio.to_thread(CliRunner().invoke, main, ["whoami"], env=env)


async def test_the_command_line_trusts_whom_it_should(site: Site, authority: Authority, tmp_path: Path) -> None:
    ca, token = {"SLUICE_CA_FILE": str(authority.file)}, site.token
    async with served(site, authority.signs("good"), data_plane=False) as url:
        done = await whoami(url, token, **ca)
        assert (done.exit_code, "admin" in done.output) == (0, True), done.output
        foreign = await whoami(url, token)
        assert (foreign.exit_code, "was signed by nobody whom this machine trusts" in foreign.stderr) == (4, True)
        assert "SLUICE_CA_FILE=FILE" in foreign.stderr
        (tmp_path / "no.pem").write_text("x")
        for file, words in (("no.pem", "there is no certificate in it"), ("none.pem", "No such file")):
            wrong = await whoami(url, token, SLUICE_CA_FILE=str(tmp_path / file))
            assert (wrong.exit_code, words in wrong.stderr) == (2, True)
    async with served(site, authority.signs("old", life=-timedelta(days=1)), data_plane=False) as url:
        expired = await whoami(url, token, **ca)
        assert expired.exit_code == 4
        assert f"the certificate of the gateway at {url} has expired" in expired.stderr
    async with served(site, authority.signs("else", hosts=("hpc.example.org",)), data_plane=False) as url:
        other = await whoami(url, token, **ca)
        assert (other.exit_code, "is another host's" in other.stderr) == (4, True)
        with pytest.raises(NotTrusted):
            async with AsyncSluice(url, token, ca=authority.file) as sluice:
                await sluice.me()
    with pytest.raises(Invalid):
        AsyncSluice("https://localhost", token, ca=tmp_path / "no.pem")


async def test_on_its_own_machine_the_gateway_is_known_by_its_very_certificate(
    site: Site, authority: Authority, tmp_path: Path
) -> None:
    pair = authority.signs("gw", hosts=("hpc.example.org",))
    async with served(site, pair, data_plane=False) as url:
        toml = tmp_path / "sluice.toml"
        toml.write_text(
            f'state_dir = "{site.gateway.settings.state_dir}"\n[serve]\nall_port = {url.rpartition(":")[2]}\n'
            f'tls_certificate_file = "{pair.certificate}"\ntls_key_file = "{pair.key}"\n'
        )
        env: dict[str, str | None] = {"SLUICE_CONFIG": str(toml), "SLUICE_URL": None, "SLUICE_TOKEN": None}
        done = await asyncio.to_thread(CliRunner().invoke, main, ["whoami"], env=env)
        assert (done.exit_code, "admin" in done.output) == (0, True), done.stderr
        toml.write_text(toml.read_text().replace(str(pair.certificate), str(authority.signs("gx").certificate)))
        refused = await asyncio.to_thread(CliRunner().invoke, main, ["whoami"], env=env)
        assert refused.exit_code == 4
