"""JupyterLab and VS Code as people use them: in a browser, through `/s`, on both ways to the nodes."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.product import Product, a_client_service
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.acceptance]

CHROMIUM = "/usr/bin/chromium"
WITHIN = 120_000  # ms: a page of megabytes, on a machine that does other things as well


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield found
        found.close()


def opened(product: Product, name: str, address: str, page: str = "") -> str:
    """The link of `sluice open`, at this client service; to this page of the session."""
    link = urlsplit(product.sluice("open", name, "--print").stdout.strip())
    return f"{address}{link.path}{page}?{link.query}"


def written(product: Product, name: str, command: str) -> Callable[[], bool]:
    """Whether a shell command succeeds in the job."""
    return lambda: product.sluice("exec", name, "--", "sh", "-c", command).returncode == 0


@pytest.fixture(scope="module")
def lab(product: Product) -> Iterator[str]:
    """A JupyterLab session."""
    yield from a_session(product, "jupyter", "lab")


@pytest.fixture(scope="module")
def code(product: Product) -> Iterator[str]:
    yield from a_session(product, "code-server", "code")


def a_session(product: Product, recipe: str, name: str) -> Iterator[str]:
    done = product.sluice("image", "build", recipe, within=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    done = product.sluice("launch", recipe, "--name", name, "--wait", within=400)
    assert done.returncode == 0, done.stderr
    yield name
    product.sluice("stop", name, "--wait")


@pytest.mark.parametrize("way", ["direct", "ssh"])
def test_jupyterlab_runs_a_cell_and_a_terminal(
    product: Product, lab: str, browser: Browser, way: str, tmp_path: Path
) -> None:
    with a_client_service(product, way, tmp_path) as address:
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        page = context.new_page()
        page.set_default_timeout(WITHIN)
        sockets: list[str] = []
        page.on("websocket", lambda one: sockets.append(one.url))
        # a workspace of its own: a page that is restored with what others left open still moves the focus around
        page.goto(opened(product, lab, address, f"lab/workspaces/{way}"))
        assert "sluice-code" not in page.url
        page.locator('.jp-LauncherCard[data-category="Notebook"]').first.click()
        # The notebook's own light is green before it has a kernel, and a cell run then is dropped without a word.
        page.locator("#jp-main-statusbar", has_text="(ipykernel) | Idle").wait_for()
        cell = page.locator(".jp-CodeCell .cm-content").first
        cell.click()
        page.keyboard.type(f"print('{way}', 6 * 7)")
        expect(cell).to_have_text(f"print('{way}', 6 * 7)", timeout=WITHIN)
        page.keyboard.press("Shift+Enter")
        expect(page.locator(".jp-OutputArea-output", has_text=f"{way} 42").first).to_be_visible(timeout=WITHIN)
        shown(page, f"jupyter-{way}")
        assert any("/api/kernels/" in url and "/channels" in url for url in sockets), sockets
        until(written(product, lab, f"grep -q \"'{way}', 6\" /session/*.ipynb"), what="the notebook is saved by itself")
        page.locator('[data-command="launcher:create"]').first.click()
        page.locator('.jp-LauncherCard[data-category="Other"]', has_text="Terminal").last.click()
        page.locator(".jp-Terminal:visible .xterm-helper-textarea").last.wait_for(state="attached")
        page.locator(".jp-Terminal:visible").last.click()
        page.keyboard.type(f"echo it-is-$((40 + 2)) > /session/terminal-{way}\n")
        until(written(product, lab, f"grep -q it-is-42 /session/terminal-{way}"), what="the terminal works")
        shown(page, f"jupyter-terminal-{way}")
        context.close()


@pytest.mark.parametrize("way", ["direct", "ssh"])
def test_vs_code_shows_the_sessions_files(
    product: Product, code: str, browser: Browser, way: str, tmp_path: Path
) -> None:
    file = f"notes-{way}.txt"
    product.sluice("exec", code, "--", "sh", "-c", f"echo hello from the job > /session/{file}")
    with a_client_service(product, way, tmp_path) as address:
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        page = context.new_page()
        page.set_default_timeout(WITHIN)
        page.goto(opened(product, code, address))
        page.locator(".explorer-folders-view .monaco-list-row", has_text=file).first.dblclick()
        expect(page.locator(".view-lines", has_text="hello").first).to_be_visible(timeout=WITHIN)
        page.locator(".monaco-editor .view-lines").first.click()
        page.keyboard.press("Control+End")
        page.keyboard.type("and typed in the browser")
        until(written(product, code, f"grep -q 'typed in the browser' /session/{file}"), what="it is saved by itself")
        shown(page, f"code-server-{way}")
        context.close()


def shown(page: Page, name: str) -> None:
    """Keep a picture, for who wants to look at it."""
    if folder := os.environ.get("SLUICE_TEST_PICTURES"):
        page.screenshot(path=f"{folder}/{name}.png")
