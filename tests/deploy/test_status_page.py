"""The status page in a real browser: layout, contrast, accessibility, refresh and requests."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import structlog
from structlog.testing import capture_logs

from docker_prom_exporter.containers import Probe
from docker_prom_exporter.demo import Play, SimulatedEngine
from docker_prom_exporter.snapshot import Failure, Snapshot
from docker_prom_exporter.web import BearerToken
from support.browser import Browser, chromium
from support.simulated import poller_for
from support.snapshots import container, serving, snapshot
from support.waiting import wait_for

PICTURE = Path(__file__).with_name("status-page.png")
PHONE = (360, 740)
DESK = (1280, 1000)

EVERYTHING = (
    container(
        "shop-web-1", health="unhealthy", project="shop", service="web", failing_streak=3
    ),
    container(
        "shop-job-1", "exited", exit_code=137, oom_killed=True, finished=1.0, restarts=3
    ),
    container("shop-loop-1", "restarting", exit_code=1, restarts=12),
    container("strange", health=None),
    container("slow", health="starting"),
    container("unpaused", health="unhealthy", failing_streak=1)._replace(doubt="pending"),
    container("frozen", health="healthy", probe=Probe(1.0, 0.5, -1))._replace(doubt="stalled"),
    container("paused", "paused"),
    container("new", "created"),
    container("plain"),
    container("well", health="healthy"),
    container("<script>document.title = 'taken'</script>", health="healthy"),
    container("n" * 200, project="p" * 100, service="s" * 100),
)
DOWN = Failure("version", "unreachable", "No such file or directory", "start the engine")

# Each request gets a new snapshot, because a snapshot is trusted for a limited time only.
STATES: dict[str, Callable[[], Snapshot]] = {
    "up": lambda: snapshot(*EVERYTHING, unwatched=3),
    "empty": snapshot,
    "none watched": lambda: snapshot(unwatched=3),
    "not polled": lambda: Snapshot(ended=time.monotonic(), trusted_for=3600, polled=False),
    "down": lambda: snapshot(*EVERYTHING, up=False, listed=False, failure=DOWN),
    "not listed": lambda: snapshot(
        *EVERYTHING, listed=False, failure=DOWN._replace(endpoint="list")
    ),
    "old": lambda: snapshot(*EVERYTHING, ended=time.monotonic() - 100, trusted_for=20),
}

# Return the lowest contrast ratio (WCAG 2.2) between the text of an element and its background.
WORST_CONTRAST = """
const channel = c => { c /= 255; return c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4; };
const luminance = rgb => .2126 * channel(rgb[0]) + .7152 * channel(rgb[1]) + .0722 * channel(rgb[2]);
const colour = text => text.match(/[\\d.]+/g).map(Number);
const background = element => {
  const found = element ? colour(getComputedStyle(element).backgroundColor) : [255, 255, 255];
  return found.length == 4 && found[3] == 0 ? background(element.parentElement) : found;
};
const hasText = e => [...e.childNodes].some(node => node.nodeType == 3 && node.data.trim());
const ratios = [...document.body.querySelectorAll("*")].filter(hasText).map(e => {
  const [a, b] = [luminance(colour(getComputedStyle(e).color)), luminance(background(e))];
  return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
});
return Math.min(...ratios);
"""


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def browser(started: Browser) -> Browser:
    """Return the browser with a light scheme and a desktop window; each request is logged."""
    structlog.reset_defaults()
    started.prefer("light")
    started.resize(*DESK)
    return started


def text(browser: Browser) -> str:
    """Return the visible text of the page."""
    return str(browser.run("return document.body.innerText"))


def overflow(browser: Browser) -> int:
    """Return how many pixels the page is wider than the window."""
    return int(
        browser.run("const e = document.documentElement; return e.scrollWidth - e.clientWidth")
    )


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_each_state_is_rendered(
    browser: Browser, state: str, scheme: str, size: tuple[int, int]
) -> None:
    """Each state is readable and fits the window, without a console message or a request elsewhere."""
    browser.prefer(scheme)
    browser.resize(*size)
    with serving(STATES[state]) as url, capture_logs() as logs:
        browser.open(url)
        requests = browser.requests()
        served = [entry["path"] for entry in logs if entry["event"] == "http.request"]

    assert [] == browser.console()
    assert [f"{url}/"] == [request for request in requests if not request.startswith("data:")]
    assert ["/"] == served
    assert 0 == overflow(browser)
    assert browser.run(WORST_CONTRAST) >= 4.5
    assert "Docker" in browser.run("return document.querySelector('h1').innerText")


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_a_screen_reader_finds_a_table(browser: Browser, size: tuple[int, int]) -> None:
    """The table and the cards both have the roles of a table: caption, column headers and row headers."""
    browser.resize(*size)
    with serving(STATES["up"]) as url:
        browser.open(url)
        roles = browser.roles()

    assert [("table", "Watched: 13 of 16. The worst come first.")] == [
        r for r in roles if r[0] == "table"
    ]
    assert 9 == sum(role == "columnheader" for role, _ in roles)
    assert "shop-web-1 nginx:1.27" == next(name for role, name in roles if role == "rowheader")
    assert ("cell", "unhealthy") in roles


@pytest.mark.parametrize("width", [280, 480, 600, 830, 1190, 1210, 1920])
def test_every_width_is_wide_enough(browser: Browser, width: int) -> None:
    """The page never scrolls sideways, even in a narrow window with long names."""
    browser.resize(width, 800)
    with serving(STATES["up"]) as url:
        browser.open(url)

    assert 0 == overflow(browser)


NAMED = """
    const names = [...document.querySelectorAll("thead th")].map(th => th.innerText.toLowerCase());
    const shown = cell => getComputedStyle(cell, "::before").content.replaceAll('"', "").trim();
    return [...document.querySelector("tbody tr").cells].map((cell, n) => [names[n], shown(cell)]);
"""


def test_a_card_names_its_values_as_the_table_does(browser: Browser) -> None:
    """A card shows the column's name before each value, but for container, service, health and state."""
    browser.resize(*PHONE)
    with serving(STATES["up"]) as url:
        browser.open(url)
        named = browser.run(NAMED)

    assert [name for name, shown in named if name != shown] == [
        "container",
        "compose project / service",
        "health",
        "state",
    ]


def test_dark_is_dark(browser: Browser) -> None:
    """The page has a light and a dark colour scheme and uses the one that the user prefers."""
    grounds = {}
    with serving(STATES["up"]) as url:
        for scheme in ("light", "dark"):
            browser.prefer(scheme)
            browser.open(url)
            grounds[scheme] = browser.run(
                "return getComputedStyle(document.body).backgroundColor"
            )

    assert {"light": "rgb(246, 247, 249)", "dark": "rgb(16, 20, 27)"} == grounds


def test_it_reloads_where_the_reader_is(browser: Browser) -> None:
    """The page reloads by itself, shows a new container and keeps the scroll position."""
    many = [container(f"c{number}", health="unhealthy") for number in range(1000)]
    now = [snapshot(*many)]
    with serving(lambda: now[0]) as url:
        browser.open(url)
        browser.run("scrollTo(0, 12345)")
        loaded = browser.run("return performance.timeOrigin")
        now[0] = snapshot(*many[:-1], container("newcomer", health="unhealthy"))
        wait_for(
            lambda: browser.run("return performance.timeOrigin") != loaded, what="the reload"
        )
        wait_for(
            lambda: browser.run("return document.readyState") == "complete",
            what="the whole page",
        )

        assert "newcomer" in text(browser)
        assert 12345 == wait_for(
            lambda: round(browser.run("return scrollY")), what="the scroll position"
        )


def test_the_reload_can_be_stopped(browser: Browser) -> None:
    """One link stops the automatic reload, another starts it again."""
    refreshes = "return document.querySelectorAll('meta[http-equiv]').length"
    with serving(snapshot) as url:
        browser.open(url)
        first = browser.run(refreshes)
        browser.open(browser.run("return document.querySelector('a[href*=off]').href"))
        still = browser.run(refreshes)
        browser.open(browser.run("return document.querySelector('.as-of a').href"))

        assert [1, 0, 1] == [first, still, browser.run(refreshes)]


def test_a_page_that_is_not_reloaded_says_so(browser: Browser) -> None:
    """A page that was not reloaded shows a warning by a CSS animation, which the test finishes at once."""
    shown = "return getComputedStyle(document.querySelector('.stale')).visibility"
    with serving(snapshot) as url:
        browser.open(url)
        before = browser.run(shown)
        browser.run("document.getAnimations().forEach(animation => animation.finish())")

    assert ["hidden", "visible"] == [before, browser.run(shown)]


def test_healthy_containers_fold_without_a_script(browser: Browser) -> None:
    """Many healthy containers are hidden until a click on their summary."""
    many = [container(f"c{number}", health="healthy") for number in range(100)]
    with serving(lambda: snapshot(container("ill", health="unhealthy"), *many)) as url:
        browser.open(url)
        before = text(browser)
        browser.run("document.querySelector('summary').click()")

        assert "ill" in before
        assert "c99" not in before
        assert "c99" in text(browser)
        assert browser.run(WORST_CONTRAST) >= 4.5
        assert 0 == overflow(browser)


def test_a_token_lets_a_browser_in(browser: Browser, tmp_path: Path) -> None:
    """A browser gets the page with the token as its password, and not with a wrong password."""
    (tmp_path / "token").write_text("s3cret")
    shown = {}
    with serving(STATES["up"], token=BearerToken(str(tmp_path / "token"))) as url:
        for word in ("wrong", "s3cret"):
            browser.open(url.replace("//", f"//anybody:{word}@"))
            shown[word] = "shop-web-1" in text(browser)

    assert {"wrong": False, "s3cret": True} == shown


def test_the_demo_is_a_picture(browser: Browser) -> None:
    """The demo's page after 76 s says that it is a simulation; STATUS_PAGE_PICTURE saves its screenshot."""
    clock = iter([time.time() - 76])
    play = Play(seed=1, clock=lambda: next(clock, time.time()))
    with (
        TemporaryDirectory() as folder,
        SimulatedEngine(Path(folder, "docker.sock"), play.containers) as engine,
        serving(poller_for(engine.url).poll) as url,
    ):
        browser.command("Emulation.setScrollbarsHidden", hidden=True)
        browser.resize(1280, 1000, scale=0.7)
        browser.open(url)
        picture = browser.picture()

        assert "This is a simulation." in text(browser)

    if os.environ.get("STATUS_PAGE_PICTURE"):
        assert len(picture) < 100_000
        PICTURE.write_bytes(picture)
