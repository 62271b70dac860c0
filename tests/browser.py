"""Pages opened in headless Chromium: what they log, what they ask of the network, what they show."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# no sandbox: containers run as root, and the pages are our own; no background traffic of the browser itself
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"]


@dataclass
class Visit:
    """An open page and what was noticed since it was opened.

    Attributes
    ----------
    page
        To click, type and evaluate in: https://playwright.dev/python/docs/api/class-page
    console_errors
        Errors and warnings logged, those of the content security policy among them.
    page_errors
        Exceptions that no script caught.
    requests
        Addresses asked for, other than the page's own and ``data:`` and ``blob:``, which need no network.
    """

    page: Page
    console_errors: list[str] = field(default_factory=list)
    page_errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def complaints(self) -> list[str]:
        """All of them; empty for a page that is well and stands alone."""
        return [*self.console_errors, *self.page_errors, *self.requests]

    def wait_until(self, expression: str, seconds: float = 30.0) -> None:
        """Wait for a JavaScript expression to become true.

        Playwright's own ``wait_for_function`` evaluates text within the page, which good pages forbid.
        """
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"not true after {seconds} s: {expression}"
            self.page.wait_for_timeout(20)


def chromium() -> str:
    """Path of the browser. Without one the test is skipped, or fails where the variable ``CI`` is set."""
    try:
        import playwright.sync_api  # noqa: F401
    except ModuleNotFoundError:
        _missing("playwright is not installed: pip install playwright")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        _missing("no Chromium found: apt-get install chromium, or give its path in the variable CHROMIUM")
    return str(found)


def _missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"this test needs a browser; {reason}")
    pytest.skip(f"needs a browser; {reason}")


@pytest.fixture(scope="module")
def open_page() -> Iterator[Callable[..., AbstractContextManager[Visit]]]:
    """`visit` in a browser that is started once for all tests of a file: ``with open_page(path) as visit``."""
    executable = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=executable, args=ARGUMENTS, timeout=120_000)
        try:
            yield partial(visit, browser)
        finally:
            browser.close()


@contextmanager
def visit(
    browser: Browser,
    path: Path,
    *,
    size: tuple[int, int] = (1200, 900),
    dark: bool = False,
    script: bool = True,
    touch: bool = False,
) -> Iterator[Visit]:
    """Open the HTML file at `path` as from a file manager, without network.

    Parameters
    ----------
    browser
        That of Playwright.
    path
        The file.
    size
        Of the window, in CSS pixels.
    dark
        Whether the reader prefers dark pages.
    script
        Whether scripts may run.
    touch
        Whether it is a phone.
    """
    address = path.resolve().as_uri()
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        java_script_enabled=script,
        has_touch=touch,
        is_mobile=touch,
        device_scale_factor=2 if touch else 1,
        permissions=["clipboard-read", "clipboard-write"],
        offline=True,
    )
    try:
        seen = Visit(context.new_page())
        seen.page.set_default_timeout(60_000)  # machines that test are busy
        _listen(seen, address)
        seen.page.goto(address, wait_until="load")
        yield seen
    finally:
        context.close()


def _listen(seen: Visit, address: str) -> None:
    def log(message) -> None:
        if message.type in ("error", "warning"):
            seen.console_errors.append(f"{message.type}: {message.text}")

    def ask(request) -> None:
        if request.url.partition("#")[0] != address and not request.url.startswith(("data:", "blob:")):
            seen.requests.append(request.url)

    seen.page.on("console", log)
    seen.page.on("pageerror", lambda error: seen.page_errors.append(str(error)))
    seen.page.on("request", ask)
