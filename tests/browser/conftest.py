"""Chromium and the servers that the page's tests talk to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from support.serving import save_nla

from browser.stub import World, serve

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE, NARROW = (1600, 1000), (390, 844)
LOOK = os.environ.get("NLAKIT_LOOK", "wide-light").split("-")
"""Width and theme where a test asks for none; `make test-looks` tries the other three."""
SIZE, THEME = {"wide": WIDE, "narrow": NARROW}[LOOK[0]], LOOK[1]
INSTALL = "Install it with `apt-get install chromium` and `pip install playwright`."


def _missing(what: str, how: str = INSTALL) -> NoReturn:
    """Without a browser these tests are skipped; in CI that would be a hole, so there they fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"The browser tests need {what}. {how}")
    pytest.skip(f"The browser tests need {what}. {how}")


@pytest.fixture(scope="package")
def chromium() -> Iterator:
    """The browser, in a fresh profile; closed after this directory's last test.

    Playwright keeps an event loop while it runs, which other tests must not find.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        _missing("Chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("Playwright")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def stub() -> Iterator[Callable]:
    """Starts a stub server: `stub(delay=0.1, ...)` gives its address and its world."""
    servers = []

    def begin(**options) -> tuple[str, object]:
        world = World(**options)
        servers.append(serve(world))
        return f"http://127.0.0.1:{servers[-1].server_port}", world

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real `nlakit serve` with a tiny NLA of random weights."""
    directory = tmp_path_factory.mktemp("serve")
    command = [sys.executable, "-m", "nlakit", "serve", "--port", "0", "--no-browser"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
        "NLAKIT_DATA_DIR": str(directory / "data"),
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen(
        [*command, "--nla", str(save_nla(directory / "nla"))],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.fixture
def visit(chromium) -> Iterator[Callable]:
    """Opens a page: `visit(address, size, theme)`; fails the test on what the page did wrong.

    Wrong are: an error in the console (the CSP's included), and a request to another host.
    """
    contexts, findings = [], []

    def begin(
        address: str, size: tuple[int, int] = SIZE, theme: str = THEME, refusals: bool = False
    ):
        context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=theme,
            has_touch=size == NARROW,
            is_mobile=size == NARROW,
            permissions=["clipboard-read", "clipboard-write"],
            service_workers="block",
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)  # a busy machine is no fault of the page
        host = "/".join(address.split("/", 3)[:3])
        page.on(
            "console",
            # Chromium logs each 401 as an error; a test of the secret waits for one.
            lambda m: findings.append(m.text) if m.type == "error" and not refusals else None,
        )
        page.on("pageerror", lambda error: findings.append(str(error)))
        page.on("request", lambda r: findings.append(r.url) if _leaves(r.url, host) else None)
        page.goto(address)
        return page

    yield begin
    for context in contexts:
        context.close()
    assert findings == []


def _leaves(url: str, host: str) -> bool:
    return not url.startswith((host, "data:", "blob:"))


@pytest.fixture
def reading(stub, visit) -> Callable:
    """A page with the first demo passage wholly read: `reading(size, theme, **world)`."""

    def begin(size: tuple[int, int] = SIZE, theme: str = THEME, **options):
        address, _ = stub(**options)
        page = visit(address, size, theme)
        page.locator(".passage").first.click()
        page.get_by_role("button", name="All read").wait_for()
        return page

    return begin


@pytest.fixture(scope="session")
def axe_source() -> str:
    """axe-core, from the page's own development packages."""
    path = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
    if not path.is_file():
        _missing("axe-core", "Run `npm ci` in web/.")
    return path.read_text(encoding="utf-8")
