"""A watch on an exporter: it scrapes the exporter all the time, and each scrape must succeed at once."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from support.exporters import Client, exporter
from support.expositions import Scrape
from support.waiting import wait_for

_SECONDS_BETWEEN = 0.1


class Watch:
    """The number, times and failures of the scrapes of an exporter."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.scrapes = 0
        self.failures: list[str] = []

    def scrape(self) -> Scrape:
        """Return a scrape; raise ValueError if its status is not 200."""
        return self.client.metrics()

    def shows(self, **expected: float) -> Scrape:
        """Wait until a scrape has these values of `docker_up` and `container_health`, and no other container.

        `expected` has the value of `docker_up` by that name, and `container_health` by container name.
        """
        seen: dict[str, float] = {}
        scrape = self.scrape()

        def shown() -> bool:
            nonlocal scrape, seen
            scrape = self.scrape()
            seen = summary(scrape)
            return seen == expected

        try:
            wait_for(shown, what=_line(expected))
        except TimeoutError as error:
            error.add_note(f"the last scrape has {_line(seen)}")
            raise
        return scrape

    def recovers(self, **expected: float) -> Scrape:
        """Wait until a scrape shows these values; they must come with the current poll or the next one."""
        before = polls(self.scrape())
        scrape = self.shows(**expected)
        took = polls(scrape) - before
        if took > 2:
            raise AssertionError(f"it took {took:.0f} polls to show {_line(expected)}")
        return scrape

    def polls_pass(self, count: int) -> Scrape:
        """Wait until `count` polls have begun and ended; return a scrape after that."""
        last = polls(self.scrape()) + count + 1

        def passed() -> Scrape | None:
            scrape = self.scrape()
            return scrape if polls(scrape) >= last else None

        return wait_for(passed, what=f"{count} polls") or self.scrape()


@contextmanager
def watched(url: str, *options: str) -> Iterator[Watch]:
    """Run an exporter of this engine with these options, and yield a watch on it."""
    with (
        exporter(f"--docker-host={url}", "--log-level=debug", *options) as process,
        watching(Client(process)) as watch,
    ):
        yield watch


@contextmanager
def watching(client: Client) -> Iterator[Watch]:
    """Yield a watch on this client's exporter; raise AssertionError if a scrape fails."""
    watch = Watch(client)
    stop = threading.Event()
    prober = threading.Thread(target=_probe, args=(watch, stop), name="prober", daemon=True)
    prober.start()
    try:
        yield watch
    finally:
        stop.set()
        prober.join()
    if watch.failures:
        raise AssertionError(
            f"{len(watch.failures)} of {watch.scrapes} scrapes failed: {watch.failures[:3]}"
        )


def summary(scrape: Scrape) -> dict[str, float]:
    """Return the value of `docker_up` by that name, and `container_health` by container name."""
    up = scrape.value("docker_up")
    return {"docker_up": -1 if up is None else up, **scrape.by("name", "container_health")}


def polls(scrape: Scrape) -> float:
    """Return the number of polls that have ended."""
    return sum(scrape.by("result", "docker_exporter_polls_total").values())


def errors(scrape: Scrape) -> dict[tuple[str, str], float]:
    """Return the number of failed requests by endpoint and reason; zeros are left out."""
    found = {
        (dict(labels)["endpoint"], dict(labels)["reason"]): value
        for (name, labels), value in scrape.samples.items()
        if name == "docker_exporter_api_errors_total"
    }
    return {failure: count for failure, count in found.items() if count}


def _probe(watch: Watch, stop: threading.Event) -> None:
    while not stop.wait(_SECONDS_BETWEEN):
        watch.scrapes += 1
        try:
            status, _ = watch.client.get("/metrics")
            if status != 200:
                watch.failures.append(f"status {status}")
        except (OSError, http.client.HTTPException) as error:
            watch.failures.append(repr(error))


def _line(said: dict[str, float]) -> str:
    few = dict(list(said.items())[:4])
    more = f" and {len(said) - len(few)} more" if len(said) > len(few) else ""
    return " ".join(f"{name} {value:g}" for name, value in few.items()) + more
