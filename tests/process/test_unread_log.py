"""An unread log does not block the exporter."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter

from support.expositions import parse
from support.processes import completed
from support.simulated import Simulation
from support.waiting import wait_for

REQUESTS = 200
LONG = "/" + "x" * 2000
"""A path that is logged, and does not exist. The lines of all requests take six times a pipe's capacity."""


SPEAKS = """
import logging, sys, threading, traceback, warnings
from docker_prom_exporter import cli, poller

class Unraisable:
    def __del__(self):
        raise ValueError("unraisable")

def speak(number):
    warnings.warn(f"warned {number % 3}", RuntimeWarning)
    warnings.warn_explicit("always", ResourceWarning, "x.py", number)
    threading.Thread(target=lambda: 1 / 0, name="spoke").start()
    Unraisable()
    logging.getLogger("urllib3").critical("hunter2")
    logging.getLogger("alone").propagate = False
    logging.getLogger("alone").critical("hunter2")
    logging.getLogger().critical("hunter2 %s %s", "too few")
    print("printed", number, "x" * 500, file=sys.stderr)
    sys.stderr.write("begun ")
    sys.stderr.flush()
    try:
        raise KeyError("traced")
    except KeyError:
        traceback.print_exc()

poll = poller.Poller.poll
def speaking(self):
    for number in range(TIMES):
        speak(number)
    return poll(self)
poller.Poller.poll = speaking
warnings.simplefilter("always")
sys.exit(cli.main(sys.argv[1:]))
"""
"""The exporter, each poll of which makes every part of Python write to standard error that may do so."""


def test_whatever_writes_to_standard_error_goes_through_the_queue(
    simulated: Simulation,
) -> None:
    """While nobody reads standard error, the exporter answers, polls and ends, and drops lines.

    The lines are those of requests and the warnings, hooks, library loggers and prints of a poll's thread.
    """
    options = ["--listen-port=0", "--poll-interval=0.5", "--log-level=debug"]
    options.append(f"--docker-host={simulated.url}")
    with subprocess.Popen(
        [sys.executable, "-c", SPEAKS.replace("TIMES", "200"), *options],
        env={"PATH": os.environ["PATH"]},
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        try:
            address = next(
                filter(None, (re.search(r"http://(\S+)/metrics", x) for x in running.stderr))
            )[1]
            connection = http.client.HTTPConnection(address, timeout=5)
            for _ in range(REQUESTS):
                assert _get(connection, LONG)
            polls = _polls(connection)
            wait_for(lambda: _polls(connection) >= polls + 3, what="three more polls")
            healthy = _get(connection, "/-/healthy")
            connection.close()
            running.send_signal(signal.SIGTERM)
            code = running.wait(10)
        finally:
            running.kill()
        unread = running.stderr.read()

    assert 0 == code
    assert unread
    assert unread.count(LONG) < REQUESTS
    assert b"healthy" in healthy.lower()


def test_whatever_writes_to_standard_error_is_an_event(simulated: Simulation) -> None:
    """Each of them is one JSON object a line, a warning only once; records of libraries are left out."""
    done = completed(
        [sys.executable, "-c", SPEAKS.replace("TIMES", "4"), "once", "--log-format=json"],
        env={"PATH": os.environ["PATH"], "DOCKER_HOST": simulated.url},
    )
    events = [json.loads(line) for line in done.stderr.splitlines()]
    counted = Counter(event["event"] for event in events)
    texts = [event["text"] for event in events if event["event"] == "stderr.written"]

    assert 0 == done.returncode
    assert "hunter2" not in done.stderr
    assert {
        "python.warning": 3 + 4,
        "thread.failed": 4,
        "exception.ignored": 4,
        "docker.found": 1,
    } == {name: number for name, number in counted.items() if name != "stderr.written"}
    assert {"thread.failed": "spoke"} == {
        event["event"]: event["thread"] for event in events if "thread" in event
    }
    assert 4 == sum(text.startswith("printed") for text in texts)
    assert 4 == texts.count("begun ")
    assert 4 == texts.count("KeyError: 'traced'")


def test_an_exception_that_nothing_catches_is_an_event() -> None:
    """A bug that ends the exporter is one JSON object, and the exit code is 1."""
    script = (
        "import sys\nfrom docker_prom_exporter import cli, commands\n"
        "def broken(settings): raise RuntimeError('a bug')\n"
        "commands._COMMANDS['once'] = broken\nsys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "once", "--log-format=json"]
    done = completed(command, env={"PATH": os.environ["PATH"]})
    (event,) = (json.loads(line) for line in done.stderr.splitlines())

    assert 1 == done.returncode
    assert "exporter.failed" == event["event"]
    assert "RuntimeError" == event["exception_type"]
    assert "in broken" in event["trace"]


def _get(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read()


def _polls(connection: http.client.HTTPConnection) -> float:
    scrape = parse(_get(connection, "/metrics").decode())
    return scrape.value("docker_exporter_polls_total", result="success") or 0
