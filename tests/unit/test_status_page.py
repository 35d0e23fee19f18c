"""The status page: its content and its HTML."""

import gzip
import re
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from docker_prom_exporter.containers import LABEL, Container, Probe
from docker_prom_exporter.demo.engine import VERSION
from docker_prom_exporter.snapshot import Counts, Failure, Mode, Snapshot
from docker_prom_exporter.web import StatusPage
from support.builders import DOCKER
from support.snapshots import PAGE, container, details, snapshot

VOID = {"meta", "link"}


class Reader(HTMLParser):
    """Parses a page into text, rows and elements; `wrong` has the tags that are not well formed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.title = self.heading = ""
        self.feed(page)
        self.close()

    @property
    def text(self) -> str:
        """The text of the body."""
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if "title" in self.open:
            self.title += data
        if "body" not in self.open:
            return
        self.words.append(data)
        if "h1" in self.open:
            self.heading += data
        if "th" in self.open or "td" in self.open:
            self.rows[-1][-1] += data


def page_of(snapshot: Snapshot, page: StatusPage = PAGE, *, age: float = 1) -> StatusPage:
    """Return a page on this snapshot at this age."""
    return replace(page, take=lambda: snapshot, clock=lambda: snapshot.ended + age)


def read(
    snapshot: Snapshot, page: StatusPage = PAGE, *, age: float = 1, refreshing: bool = True
) -> Reader:
    return Reader(page_of(snapshot, page, age=age).render(refreshing=refreshing).decode())


def named(*containers: Container) -> list[str]:
    return [row[0].splitlines()[0] for row in read(snapshot(*containers)).rows[1:]]


FAILED_PROBE = Probe(ended=time.time() - 12, duration=1, exit_code=7)
DOWN = Failure("ping", "unreachable", "Connection refused", "start the engine")


@pytest.mark.parametrize(
    ("state", "age", "mark", "sentence", "text"),
    [
        (
            snapshot(),
            1,
            "●",
            "Docker is up",
            "No container is watched: the engine has no container.",
        ),
        (
            snapshot(up=False, listed=False, failure=DOWN),
            1,
            "▲",
            "Docker is down",
            "start the engine",
        ),
        (
            snapshot(container("web"), listed=False),
            1,
            "?",
            "Docker is up, but does not list its containers",
            "Last seen: 1.",
        ),
        (
            Snapshot(ended=0, trusted_for=20, polled=False),
            1,
            "◐",
            "Docker has not answered yet",
            "No container is known yet.",
        ),
        (
            snapshot(up=False, listed=False),
            21,
            "▲",
            "Docker is not being watched",
            "This data is old. The last poll ended 21 s ago",
        ),
    ],
)
def test_the_state_of_the_engine(
    state: Snapshot, age: float, mark: str, sentence: str, text: str
) -> None:
    """Title, heading and text of a page have the state of the engine, and its HTML is well formed."""
    page = read(state, age=age)

    assert f"{sentence} · docker-prom-exporter" == page.title
    assert f"{mark}{sentence}" == page.heading
    assert text in page.text
    assert [] == page.wrong + page.open


@pytest.mark.parametrize(
    ("containers", "mark", "sentence"),
    [
        ([container("a", health="healthy"), container("b", "paused")], "●", "Docker is up"),
        ([container("a", "exited", exit_code=137)], "●", "Docker is up"),
        ([container("a", health="starting")], "●", "Docker is up"),
        (
            [
                container("a", health="unhealthy"),
                container("b", health="unhealthy"),
                container("c", "exited", exit_code=1),
                container("d", "restarting"),
                container("e", health="healthy"),
            ],
            "▲",
            "Docker is up, 2 unhealthy, 1 restarting, 1 failed",
        ),
        (
            [container("a", health=None), container("b")._replace(doubt="stalled")],
            "?",
            "Docker is up, 2 unknown",
        ),
    ],
)
def test_the_heading_says_the_worst(
    containers: list[Container], mark: str, sentence: str
) -> None:
    """Heading, title and icon, which a tab shows, say how many containers need attention."""
    page = read(snapshot(*containers))
    (icon,) = [attributes["href"] for tag, attributes in page.elements if tag == "link"]

    assert f"{sentence} · docker-prom-exporter" == page.title
    assert f"{mark}{sentence}" == page.heading
    assert icon
    assert {"●": "1a9c57", "?": "e0a030", "▲": "d93a3f"}[mark] in icon


@pytest.mark.parametrize(
    ("what", "word", "red"),
    [
        ({"state": "exited", "exit_code": 0}, "stopped", False),
        ({"state": "exited", "exit_code": 137}, "stopped", False),
        ({"state": "exited", "exit_code": 143}, "stopped", False),
        ({"state": "exited", "exit_code": 137, "oom_killed": True}, "failed", True),
        ({"state": "exited", "exit_code": 1}, "failed", True),
        ({"state": "created", "start_failed": True}, "failed", True),
        ({"state": "created"}, "stopped", False),
        ({"state": "paused"}, "stopped", False),
        ({"state": "dead", "exit_code": 0}, "failed", False),
        ({"state": "restarting", "exit_code": 1}, "restarting", True),
        ({"restarts": 3, "age": 200}, "restarting", False),
        ({"restarts": 3, "age": 400}, "no healthcheck", False),
        ({"restarts": 2, "age": 10}, "no healthcheck", False),
        ({"restarts": 3, "health": "healthy"}, "restarting", False),
        ({"restarts": 3, "health": "unhealthy"}, "unhealthy", False),
    ],
    ids=str,
)
def test_failures_and_stops(what: dict[str, Any], word: str, *, red: bool) -> None:
    """What failed or restarts often differs from what was stopped on purpose; so does its code."""
    others = {name: value for name, value in what.items() if name != "age"}
    started = time.time() - what.get("age", 60)
    page = read(snapshot(container("web", started=started, **others)))

    assert word == page.rows[1][2].strip("▲↻■●○ ")
    assert f"1 {word}" in page.text
    assert red == any(
        tag == "strong" and attributes.get("class") == "bad"
        for tag, attributes in page.elements
    )


def test_images() -> None:
    """The image's name is shown, with a shortened digest."""
    digest = "sha256:" + "0123456789abcdef" * 4
    one = container("web")._replace(image=f"registry.example/web@{digest}")

    assert "web\nregistry.example/web@sha256:0123456789ab…" == read(snapshot(one)).rows[1][0]


@pytest.mark.parametrize("refreshing", [True, False])
def test_many_healthy_containers_fold(*, refreshing: bool) -> None:
    """Above 60 containers, those without trouble fold; a page that does not reload unfolds them."""
    well = [container(f"c{number:02}", health="healthy") for number in range(59)]
    trouble = [container("ill", health="unhealthy"), container("plain")]
    few = read(snapshot(*well, trouble[0]))
    many = read(snapshot(*well, *trouble), refreshing=refreshing)
    folds = [attributes for tag, attributes in many.elements if tag == "details"]

    assert "details" not in [tag for tag, _ in few.elements]
    assert [{} if refreshing else {"open": None}] == folds
    assert 61 == sum(row[0] != "Container" for row in many.rows)
    assert ["ill", "Container"] == [row[0].splitlines()[0] for row in many.rows[1:3]]
    assert "60 without need for attention Sorted by health and name." in many.text
    assert [] == many.wrong + many.open


def test_nothing_but_healthy_containers_folds() -> None:
    """A page of many healthy containers has its caption, and no empty table."""
    page = read(snapshot(*(container(f"c{number}", health="healthy") for number in range(61))))

    assert "Watched: 61 of 61." in page.text
    assert 1 == sum(tag == "table" for tag, _ in page.elements)


def test_a_misspelled_label() -> None:
    """The page names a label that was probably meant as the exporter's."""
    one = container("web")._replace(similar_label="docker-prometheus-exporter.<b>")

    assert f"web has the label docker-prometheus-exporter.<b> , which is not {LABEL} ." in (
        read(snapshot(one)).text
    )
    assert "Misspelled" not in read(snapshot(container("web"))).text


def test_an_engine_that_is_up_is_described() -> None:
    """For an engine that is up, the page shows since when, its version and its API version."""
    text = read(snapshot()).text

    assert "since 1 h ago · Docker 29.1.0 · API 1.52 · linux/amd64" in text


def test_an_engine_that_is_down() -> None:
    """For an engine that is down, the page shows the failure, the remedy and containers as unknown."""
    page = read(
        snapshot(
            container("web", health="unhealthy", probe=FAILED_PROBE),
            up=False,
            listed=False,
            failure=DOWN,
        )
    )

    assert "ping unreachable: Connection refused What to do: start the engine" in page.text
    assert ["web\nnginx:1.27", "", "?unknown", *[""] * 6] == page.rows[1]
    assert "Last seen: 1. Their current state is unknown." in page.text


def test_the_worst_come_first() -> None:
    """Rows are sorted by health, the worst first, then by name. Each word has a symbol."""
    everything = (
        container("healthy", health="healthy"),
        container("alive"),
        container("done", "exited", exit_code=0),
        container("new", "created"),
        container("starting", health="starting"),
        container("unknown", health=None),
        container("failed", "exited", exit_code=1),
        container("looping", "restarting"),
        container("b unhealthy", health="unhealthy"),
        container("a unhealthy", health="unhealthy"),
    )
    order = "a unhealthy,b unhealthy,looping,failed,unknown,starting,done,new,alive,healthy"
    verdicts = (
        "▲unhealthy,▲unhealthy,↻restarting,■failed,?unknown,◐starting,■stopped,■stopped,"
        "○no healthcheck,●healthy"
    )

    assert order.split(",") == named(*everything)
    assert order.split(",") == named(*reversed(everything))
    assert verdicts.split(",") == [row[2] for row in read(snapshot(*everything)).rows[1:]]


def test_columns() -> None:
    """Each column of a row has its value."""
    killed = container(
        "shop-web-1",
        "exited",
        project="shop",
        service="web",
        finished=time.time() - 90,
        restarts=2,
        restart_policy="always",
        exit_code=137,
        oom_killed=True,
    )
    ill = container("db", health="unhealthy", failing_streak=3)
    rows = [
        [" ".join(cell.split()) for cell in row] for row in read(snapshot(killed, ill)).rows
    ]

    assert [
        [
            "Container",
            "Compose project / service",
            "Health",
            "State",
            "Since",
            "Restart policy",
            "Restarts",
            "Exit code",
            "Failing streak",
        ],
        ["db nginx:1.27", "", "▲unhealthy", "running", "1 min ago", "no", "0", "", "3"],
        [
            "shop-web-1 nginx:1.27",
            "shop / web",
            "■failed",
            "exited",
            "1 min 30 s ago",
            "always",
            "2",
            "137, out of memory",
            "",
        ],
    ] == rows


@pytest.mark.parametrize(
    ("health", "what", "cell"),
    [
        ("healthy", {"probe": FAILED_PROBE}, "●healthy"),
        ("none", {}, "○no healthcheck"),
        ("starting", {}, "◐starting"),
        (
            "starting",
            {"probe": FAILED_PROBE},
            "◐starting last probe {} ago: failed with code 7",
        ),
        (
            "unhealthy",
            {"probe": FAILED_PROBE},
            "▲unhealthy last probe {} ago: failed with code 7",
        ),
        (
            "unhealthy",
            {"probe": FAILED_PROBE._replace(exit_code=-1)},
            "▲unhealthy last probe {} ago: was not run to its end",
        ),
        (
            "unhealthy",
            {"doubt": "pending"},
            (
                "?pending the engine says unhealthy, but fewer probes have failed in a row "
                "than its retries"
            ),
        ),
        (
            "healthy",
            {"doubt": "stalled", "probe": FAILED_PROBE._replace(exit_code=0)},
            (
                "?stalled the engine says healthy, but its healthcheck is not run any more; "
                "last probe {} ago: passed"
            ),
        ),
    ],
)
def test_why_a_container_is_not_healthy(health: str, what: dict[str, Any], cell: str) -> None:
    """A container that is not healthy has its last probe, and the doubt about its verdict."""
    doubt = what.pop("doubt", None)
    one = container("web", health=health, **what)._replace(doubt=doubt)
    shown = " ".join(read(snapshot(one)).rows[1][2].split())

    assert cell == re.sub(r"last probe [^:]* ago", "last probe {} ago", shown)


def test_caption_and_headers() -> None:
    """The table has a caption, and a header for each column and each row."""
    page = read(snapshot(container("web")))
    scopes = [attributes.get("scope") for tag, attributes in page.elements if tag == "th"]

    assert ["col"] * 9 + ["row"] == scopes
    assert "Watched: 1 of 1. The worst come first." in page.text
    assert "caption" in [tag for tag, _ in page.elements]


def test_missing_details() -> None:
    """The page says whether details are disabled or inspects fail."""
    bare = snapshot(container("web", details=None))

    assert "CONTAINER_DETAILS=false" in read(bare, replace(PAGE, details=False)).text
    assert "missing for 1 of them, because inspecting them fails" in read(bare).text


@pytest.mark.parametrize(
    ("only_labelled", "fix"),
    [
        (True, f'{LABEL}: "true"'),
        (True, "CONTAINER_HEALTH_FILTER_LABEL=false"),
        (False, f'{LABEL}: "false"'),
    ],
)
def test_the_remedy_for_unwatched_containers(*, only_labelled: bool, fix: str) -> None:
    """If containers may be unwatched, the page has the remedy for the filter in use."""
    page = replace(PAGE, only_labelled=only_labelled)

    for unwatched in (2, None):
        text = read(snapshot(container("web"), unwatched=unwatched), page).text

        assert fix in text
        assert "docker-prom-exporter check" in text
    assert "Not watched" not in read(snapshot(container("web")), page).text


@pytest.mark.parametrize(
    ("unwatched", "says"),
    [(1, "1 container is"), (2, "2 containers are"), (None, "Some containers may be")],
)
def test_the_number_of_unwatched_containers(unwatched: int | None, says: str) -> None:
    """The number of unwatched containers is shown if it is known."""
    read_page = read(
        snapshot(container("web"), unwatched=unwatched), replace(PAGE, only_labelled=False)
    )

    assert f"{says} labelled false" in read_page.text


def test_nothing_is_watched_and_nobody_knows_what_else_there_is() -> None:
    """In inspect mode the number of containers labelled false is not known."""
    page = replace(PAGE, only_labelled=False)

    assert f"the engine has no container but those labelled {LABEL}=false" in (
        read(snapshot(unwatched=None), page).text
    )


def test_the_numbers_in_the_caption() -> None:
    """The caption has the number of all containers if it is known, and that of watched ones."""
    assert "Watched: 1 of 3." in read(snapshot(container("web"), unwatched=2)).text
    assert "Watched: 1. The worst" in read(snapshot(container("web"), unwatched=None)).text


@pytest.mark.parametrize("mode", [Mode("list", "engine"), Mode("inspect", "engine")])
def test_the_mode_is_named(mode: Mode) -> None:
    """The page names the mode, which determines the cost of a poll and the age of details."""
    assert f"Mode {mode.name}:" in read(snapshot(mode=mode)).text


def test_polls_and_errors() -> None:
    """The page shows the last poll, the interval, and the numbers of polls, errors and requests."""
    counts = Counts()
    counts.polls.update(success=7, failure=1)
    counts.requests.update(version=2, ping=8, list=7)
    counts.errors["ping", "timeout"] = 1
    text = read(snapshot(counts=counts)).text

    assert "Last poll 1 s ago, took 12 ms" in text
    assert (
        "Interval 5 s Mode list: one list in each poll, inspects where a row has changed"
        in text
    )
    assert "Polls 7 succeeded, 1 failed Errors ping timeout: 1, in 17 requests" in text


def test_a_simulation() -> None:
    """The page of `demo` says that it shows a simulation, so that nobody takes it for real."""
    simulated = read(snapshot(engine=DOCKER._replace(version=VERSION))).text

    assert "This is a simulation." in simulated
    assert "This is a simulation." not in read(snapshot()).text


def test_names_are_text() -> None:
    """HTML in names is shown as text and adds no element."""
    evil = "<script>alert(1)</script>'\"&"
    plain = read(snapshot(container("web", project="p", service="s")))
    one = container(evil, project=evil, service=evil)._replace(image=evil)
    page = read(snapshot(one, engine=DOCKER._replace(version=evil)))

    assert [tag for tag, _ in plain.elements] == [tag for tag, _ in page.elements]
    assert f"{evil}\n{evil}" == page.rows[1][0]
    assert f"{evil} / {evil}" == page.rows[1][1]


def test_nothing_is_fetched_or_run() -> None:
    """The page loads and runs nothing, and no link leads elsewhere."""
    page = read(snapshot(container("web")))
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]

    assert {"script", "img", "iframe", "object", "form"}.isdisjoint(
        tag for tag, _ in page.elements
    )
    assert not any(
        name.startswith("on") or name == "style" for _, a in page.elements for name in a
    )
    assert ["./", "?refresh=off", "metrics"] == links


@pytest.mark.parametrize(("interval", "seconds"), [(0.5, "5"), (7.2, "8"), (3600, "60")])
def test_refresh(interval: float, seconds: str) -> None:
    """The page refreshes once per poll, within 5 to 60 seconds, unless the client turns that off."""
    page = replace(PAGE, poll_interval=interval)
    refreshes = [
        a.get("content")
        for _, a in read(snapshot(), page).elements
        if a.get("http-equiv") == "refresh"
    ]
    without = read(snapshot(), page, refreshing=False).elements

    assert [seconds] == refreshes
    assert not any(attributes.get("http-equiv") for _, attributes in without)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 s"),
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3725, "1 h 2 min"),
        (86400 * 3, "3 d"),
    ],
)
def test_wording_of_ages(seconds: float, words: str) -> None:
    """An age is shown in its two largest units; a negative age, from a clock that is behind, is 0 s."""
    assert f"since {words} ago" in read(snapshot(since=time.time() - seconds)).text


def test_a_gzipped_page_is_small() -> None:
    """A page with a thousand containers is gzipped to less than 20 kB.

    A phone may load it every five seconds.
    """
    many = snapshot(*[container(f"c{number}") for number in range(1000)])
    page = page_of(many).render(gzipped=True)

    assert len(page) < 20_000
    assert 1001 == gzip.decompress(page).count(b"<tr>")


class CountedPage:
    """A page whose clock and snapshot a test can change; `rendered` counts how often it is rendered."""

    def __init__(self) -> None:
        self.now = 1000.25
        self.snapshot = snapshot(container("web"), ended=1000.0)
        self.rendered = 0
        self.page = replace(
            PAGE, take=lambda: self.snapshot, clock=lambda: self.now, now=self.wall
        )

    def wall(self) -> float:
        self.rendered += 1
        return time.time()


def newer(counted: CountedPage) -> None:
    counted.snapshot = replace(counted.snapshot, unwatched=7)


def later(counted: CountedPage) -> None:
    counted.now += 1


def at_once(counted: CountedPage) -> None:
    counted.now += 0.5


@pytest.mark.parametrize(
    ("change", "rendered"),
    [(at_once, 1), (later, 2), (newer, 2)],
    ids=["at once", "later", "newer"],
)
def test_renders_once_per_snapshot_and_second(
    change: Callable[[CountedPage], None], rendered: int
) -> None:
    """The page is rendered once for each snapshot and second, for all plain and gzipped answers."""
    counted = CountedPage()
    first = [counted.page.render() for _ in range(5)]
    zipped = counted.page.render(gzipped=True)
    change(counted)
    counted.page.render()

    assert {gzip.decompress(zipped)} == set(first)
    assert rendered == counted.rendered


@pytest.mark.parametrize("when", [253402300800.0, 1e18, 1e308, -1e18])
def test_a_time_beyond_the_calendar_is_an_empty_cell(when: float) -> None:
    """A time that Python's calendar lacks gives an empty cell; Docker allows years after 9999."""
    odd = container("odd", "created")._replace(created_ns=int(when) * 10**9)
    running = container("running", details=details(started=when))
    page = read(snapshot(odd, running, container("web")))
    rows = {row[0].splitlines()[0]: row for row in page.rows[1:]}

    assert ("", "") == (rows["odd"][4], rows["running"][4])
    assert "1 min ago" == rows["web"][4]
