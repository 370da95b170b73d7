"""The SDK over a Unix socket: who we are is what the kernel says, for OpenAI's client, too."""

from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.client.app import parts
from gateway.identity.opening import open_callers
from gateway.sdk import AsyncSluice
from gateway.server.app import part
from gateway.web.app import Web
from gateway.web.peers import listen_unix
from gateway.web.serving import running
from tests.services import a_site


async def test_openais_client_needs_no_token_over_the_socket(tmp_path: Path) -> None:
    with TemporaryDirectory(prefix="sluice-") as folder:
        path = Path(folder) / "gateway.sock"
        async with a_site(tmp_path) as site:
            web = Web([part(site.gateway), *parts(site.gateway)], open_callers(site.gateway))
            async with running(web, listen_unix(path)), AsyncSluice(f"unix:{path}") as sluice:
                assert (await sluice.me()).name == "admin"
                async with sluice.openai(timeout=60) as client:
                    assert [model.id async for model in client.models.list()] == []
