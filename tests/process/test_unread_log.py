"""An unread log does not block the exporter."""

import http.client
import os
import re
import signal
import subprocess
import sys

from support.expositions import parse
from support.simulated import Simulation
from support.waiting import wait_for

REQUESTS = 200
LONG = "/" + "x" * 2000
"""A path that is logged, and does not exist. The lines of all requests take six times a pipe's capacity."""


def test_standard_error_is_a_pipe_that_nobody_reads(simulated: Simulation) -> None:
    """When standard error is an unread pipe, the exporter answers, polls and ends, and drops log lines."""
    options = (
        "--listen-port=0",
        "--poll-interval=0.5",
        "--log-level=debug",
        "--docker-host",
        simulated.url,
    )
    with subprocess.Popen(
        [sys.executable, "-m", "docker_prom_exporter", *options],
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
            wait_for(lambda: _polls(connection) > polls, what="the next poll")
            connection.close()

            running.send_signal(signal.SIGTERM)
            code = running.wait(5)
        finally:
            running.kill()
        unread = running.stderr.read()

    assert 0 == code
    assert 0 < unread.count("\n") < REQUESTS


def _get(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read()


def _polls(connection: http.client.HTTPConnection) -> float:
    scrape = parse(_get(connection, "/metrics").decode())
    return scrape.value("docker_exporter_polls_total", result="success") or 0
