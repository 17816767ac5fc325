"""A real browser for the tests of pages: the system's Chromium or Chrome without a window, and without the network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def _programs() -> tuple[str | None, str | None]:
    """The browser and its driver; None where one is absent."""
    folders = os.pathsep.join([os.environ.get("PATH", ""), os.environ.get("CHROMEWEBDRIVER", "")])
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    return browser, shutil.which("chromedriver", path=folders)


@contextmanager
def open_browser() -> Iterator[Any]:
    """A driver of the browser; the test is skipped where there is no browser or no driver."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is absent: pip install 'pyro-vae[browser]'")
    browser, driver = _programs()
    if browser is None or driver is None:
        pytest.skip("no Chromium with chromedriver on the PATH (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")  # no name is found
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield opened
    finally:
        opened.quit()


def resize(browser: Any, width: int) -> None:
    """The width of the page in pixels; below 500 as on a telephone."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def overflow(browser: Any) -> int:
    """By how many pixels the page is wider than the window."""
    found = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    return max(0, int(found))


def requested(browser: Any) -> list[str]:
    """The addresses that were asked for since the last call, without those within the page."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def wait_for(browser: Any, script: str, seconds: float = 20) -> Any:
    """What a script returns, once that is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds).until(lambda driver: driver.execute_script(script))
