"""Debian's Chromium, headless, driven by Selenium."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.command import Command

from support.missing import require_program

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Browser:
    """A running Chromium. Each `open` empties its logs first."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def open(self, url: str) -> None:
        """Load a URL and return once the page is complete."""
        self.console()
        self.requests()
        self._driver.get(url)

    def run(self, script: str) -> Any:
        """Return what a script `return`s; the page's security policy does not apply to the script."""
        return self._driver.execute_script(script)

    def command(self, name: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol and return its answer."""
        return self._driver.execute_cdp_cmd(name, parameters)

    def prefer(self, scheme: str) -> None:
        """Emulate a user who prefers `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setEmulatedMedia", features=[feature])

    def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        """Set the size of the viewport, in CSS pixels."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    def console(self) -> Sequence[str]:
        """Return the console messages since the last call, policy violations included."""
        return [entry["message"] for entry in self._log("browser")]

    def requests(self) -> Sequence[str]:
        """Return the URLs requested since the last call."""
        entries = (
            json.loads(entry["message"])["message"] for entry in self._log("performance")
        )
        return [
            entry["params"]["request"]["url"]
            for entry in entries
            if entry["method"] == "Network.requestWillBeSent"
        ]

    def _log(self, kind: str) -> Sequence[Any]:
        entries: Sequence[Any] = self._driver.execute(Command.GET_LOG, {"type": kind})["value"]
        return entries

    def roles(self) -> Sequence[tuple[str, str]]:
        """Return the role and name of each node that the accessibility tree exposes to a screen reader."""
        nodes = self.command("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]

    def picture(self) -> bytes:
        """Return a screenshot of the viewport, as PNG."""
        return self._driver.get_screenshot_as_png()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser with a new profile that makes no background requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = require_program("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for argument in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        driver = webdriver.Chrome(options, Service(require_program("chromedriver")))
        try:
            yield Browser(driver)
        finally:
            driver.quit()
