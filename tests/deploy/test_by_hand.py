"""curl and a browser show the whole gzipped exposition of /metrics."""

import subprocess

from support.browser import chromium
from support.missing import require_program
from support.snapshots import container, serving, snapshot

CROWD = tuple(container(f"web-{number}") for number in range(50))


def test_curl() -> None:
    """`curl --compressed` reads one gzip member, so it prints the whole exposition only if there is one."""
    curl = require_program("curl")
    with serving(lambda: snapshot(*CROWD)) as url:
        got = subprocess.run(
            [
                curl,
                "--silent",
                "--show-error",
                "--compressed",
                "--noproxy",
                "*",
                f"{url}/metrics",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    assert "" == got.stderr
    assert 1 == got.stdout.count("\ndocker_up ")
    assert 50 == got.stdout.count("\ncontainer_health{")


def test_browser() -> None:
    """A browser shows the whole exposition."""
    with serving(lambda: snapshot(*CROWD)) as url, chromium() as browser:
        browser.open(f"{url}/metrics")
        shown = browser.run("return document.body.innerText")

    assert 1 == shown.count("\ndocker_up ")
    assert 50 == shown.count("\ncontainer_health{")
