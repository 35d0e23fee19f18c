"""The command `check`: its report on each endpoint, its advice and its exit code."""

import io
import re
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from docker_prom_exporter import cli
from docker_prom_exporter.check import Report, check
from docker_prom_exporter.containers import LABEL
from docker_prom_exporter.demo.engine import Request
from docker_prom_exporter.engine import Engine, EngineError, advice, advise, find_target
from docker_prom_exporter.engine.errors import engine_error
from docker_prom_exporter.snapshot import ENDPOINTS
from support.reports import ANSWERED, checked, outcomes
from support.simulated import (
    DENIED,
    Fault,
    Simulation,
    answers,
    answers_json,
    hangs,
    resets,
    settings_for,
    simulation,
)


def test_all_is_well(simulated: Simulation) -> None:
    """The report names the engine, its answers and the watched containers; each endpoint is asked once."""
    simulated.stage.add("web", health="healthy")
    simulated.stage.add("db", labels={})
    code, lines = checked(simulated.url)

    assert (0, ANSWERED) == (code, outcomes(lines))
    assert [
        "engine",
        "version",
        "ping",
        "list",
        "inspect",
        "watched",
        "left out",
        "mode",
        "result",
    ] == list(lines)
    assert simulated.url == lines["engine"]
    assert "Docker 29.0.0-simulated, API 1.52, linux/amd64, in " in lines["version"]
    assert "2 containers, in " in lines["list"]
    assert "web, in " in lines["inspect"]
    assert "1 of 2    web" == lines["watched"]
    assert f"1         no label {LABEL}=true: db" == lines["left out"]
    assert "good      container health can be reported" == lines["result"]
    assert [1, 1, 1, 1] == [simulated.asked(name) for name in ENDPOINTS]


@pytest.mark.parametrize(
    ("endpoint", "setting", "code"),
    [
        ("version", "VERSION=1", 1),
        ("ping", "PING=1", 1),
        ("list", "CONTAINER_LIST=1 or CONTAINERS=1", 1),
        ("inspect", "CONTAINER_INSPECT=1 or CONTAINERS=1", 0),
    ],
)
def test_a_proxy_denies_one(
    simulated: Simulation, endpoint: str, setting: str, code: int
) -> None:
    """The report names the proxy setting that allows a denied endpoint, and the others are still asked."""
    simulated.stage.add("web")
    simulated.faults = {endpoint: DENIED}
    found, lines = checked(simulated.url)
    expected = ["denied" if each == endpoint else "answered" for each in ENDPOINTS]
    if endpoint == "list":
        expected[-1] = "not asked"

    assert code == found
    assert expected == outcomes(lines)
    assert setting in lines[endpoint]
    assert "-allowGET=" in lines[endpoint]


def test_a_proxy_hides_inspects(simulated: Simulation) -> None:
    """A 404 for a container that is still listed is a proxy's, and the setting is named."""
    simulated.stage.add("web")
    simulated.faults = {"inspect": answers("404 Not Found", "{}")}
    code, lines = checked(simulated.url)

    assert (0, [*ANSWERED[:3], "nonsense"]) == (code, outcomes(lines))
    assert "404 Not Found, but the container is listed" in lines["inspect"]
    assert "CONTAINER_INSPECT=1 or CONTAINERS=1" in lines["inspect"]
    assert "but no restarts, exit codes and times" in lines["result"]


@pytest.mark.parametrize("status", ["404 Not Found", "500 Internal Server Error"])
def test_a_container_is_removed_meanwhile(simulated: Simulation, status: str) -> None:
    """An inspect of a container that was removed since the list is no failure; Podman says 500."""
    container = simulated.stage.add("web")
    answer = answers(status, "{}")

    def remove(connection: socket.socket) -> None:
        simulated.stage.containers.clear()
        answer(connection)

    simulated.inspect_faults = {container.id: remove}
    code, lines = checked(simulated.url)

    assert (0, ANSWERED) == (code, outcomes(lines))
    assert "web was removed meanwhile" in lines["inspect"]


def test_a_proxy_denies_all(simulated: Simulation) -> None:
    """One run reports all denied endpoints; inspect is not asked without a list."""
    simulated.faults = dict.fromkeys(ENDPOINTS, DENIED)
    code, lines = checked(simulated.url)

    assert (1, ["denied", "denied", "denied", "not asked"]) == (code, outcomes(lines))
    assert "not asked the list did not answer" == lines["inspect"]
    assert "unknown   the list did not answer" == lines["watched"]


@pytest.mark.parametrize(
    ("fault", "outcome", "advised"),
    [
        (hangs(), "too slow", "DOCKER_TIMEOUT"),
        (resets, "absent", ""),
        (answers("503 Service Unavailable", ""), "absent", "the engine behind it does not"),
        (answers("404 Not Found", "{}"), "absent", "check the address in DOCKER_HOST"),
        (
            answers("400 Bad Request", '{"message": "too new"}'),
            "failed",
            "refused the API version",
        ),
        (answers("401 Unauthorized", ""), "denied", "credentials"),
        (answers("308 Permanent Redirect", ""), "nonsense", "redirects are not followed"),
        (answers("500 Internal Server Error", ""), "failed", "the engine's log"),
        (answers_json("nonsense"), "nonsense", ""),
    ],
)
def test_the_list_fails(
    simulated: Simulation, fault: Fault, outcome: str, advised: str
) -> None:
    """If the list fails, the exit code is 1 and the report has the kind of failure and the advice."""
    simulated.stage.add("web")
    simulated.faults = {"list": fault}
    code, lines = checked(simulated.url, docker_timeout=1 if outcome == "too slow" else 60)

    assert (1, ["answered", "answered", outcome, "not asked"]) == (code, outcomes(lines))
    assert advised in lines["list"]
    assert (
        "bad       container health can't be reported: version, ping and list must answer"
        == lines["result"]
    )


@pytest.mark.parametrize(
    ("what", "line"),
    [
        (
            {"health": "unhealthy", "failing_streak": 3},
            "unhealthy web: the engine says unhealthy; last probe N ago: failed with code 1",
        ),
        (
            {"health": "starting"},
            "starting  web: the engine says starting; last probe N ago: failed with code 1",
        ),
        (
            {"health": "unhealthy", "failing_streak": 2},
            (
                "pending   web: the engine says unhealthy, but fewer probes have failed "
                "in a row than its retries; last probe N ago: failed with code 1"
            ),
        ),
        (
            {"health": "healthy", "probes_end": time.time() - 7200, "started": 1},
            (
                "stalled   web: the engine says healthy, but its healthcheck is not run "
                "any more; last probe N ago: passed"
            ),
        ),
        ({"health": "healthy"}, None),
        ({"health": None}, None),
        ({"health": "unhealthy", "failing_streak": 3, "state": "exited"}, None),
    ],
)
def test_a_container_that_is_not_healthy(
    simulated: Simulation, what: dict[str, Any], line: str | None
) -> None:
    """The worst container is inspected: its last probe, and why its verdict does not count.

    Only an inspect shows that a verdict is stalled, so that container has to be the only one.
    """
    if what.get("failing_streak"):
        simulated.stage.add("alpha", health="healthy")
    simulated.stage.add("web", **what)
    code, lines = checked(simulated.url)
    found = lines.get("health")

    assert 0 == code
    assert line == (found and re.sub(r"last probe [^:]* ago", "last probe N ago", found))


def test_podman_must_be_inspected() -> None:
    """On Podman a denied inspect gives exit code 1, because Podman's list has no health."""
    with simulation(api_version="1.41", podman=True) as podman:
        podman.stage.add("web", health="healthy")
        podman.faults = {"inspect": DENIED}
        code, lines = checked(podman.url)

    assert 1 == code
    assert lines["inspect"].endswith("or, with Docker, set CONTAINER_DETAILS=false")
    assert lines["result"].endswith("Podman reports health by inspect only")


def test_docker_need_not_be_inspected(simulated: Simulation) -> None:
    """Inspect is not asked without a container or with CONTAINER_DETAILS=false."""
    assert "not asked the list named no container" == checked(simulated.url)[1]["inspect"]

    simulated.stage.add("web")
    code, lines = checked(simulated.url, container_details=False)

    assert (0, 0) == (code, simulated.asked("inspect"))
    assert "not asked CONTAINER_DETAILS=false needs none" == lines["inspect"]


def test_unwatched_containers(simulated: Simulation) -> None:
    """The report lists unwatched containers by reason."""
    simulated.stage.add("refused", labels={LABEL: "false"})
    simulated.stage.add("invalid", labels={LABEL: "perhaps"})
    stream = io.StringIO()
    settings = settings_for(simulated.url)
    check(Engine(find_target(simulated.url, {}), 2), settings, Report(stream))

    assert f"left out  1         {LABEL}=false: refused\n" in stream.getvalue()
    assert (
        f"left out  1         the label {LABEL} is neither true nor false: invalid\n"
        in stream.getvalue()
    )
    assert "watched   0 of 2\n" in stream.getvalue()

    watched = checked(simulated.url, container_health_filter_label=False)[1]["watched"]

    assert "1 of 2    invalid" == watched


@pytest.mark.parametrize(
    ("labels", "only_labelled", "why", "advised"),
    [
        ([], True, "the engine has no container", False),
        ([], False, "the engine has no container", False),
        ([{}], True, f"no container has the label {LABEL}=true", True),
        ([{LABEL: "false"}], False, f"every container is labelled {LABEL}=false", False),
    ],
)
def test_nothing_is_watched(
    simulated: Simulation,
    labels: list[dict[str, str]],
    only_labelled: bool,  # noqa: FBT001  a column of the table
    why: str,
    advised: bool,  # noqa: FBT001
) -> None:
    """The last line is yellow, says why, and advises only what the settings don't say already."""
    for number, each in enumerate(labels):
        simulated.stage.add(f"c{number}", labels=each)
    code, lines = checked(
        simulated.url, coloured=True, container_health_filter_label=only_labelled
    )

    assert 0 == code
    assert lines["result"].startswith("\033[33mgood")
    assert f"but no container is watched: {why}" in lines["result"]
    assert advised == ("CONTAINER_HEALTH_FILTER_LABEL=false" in lines["result"])


@pytest.mark.parametrize("only_labelled", [True, False])
def test_a_misspelled_label(simulated: Simulation, only_labelled: bool) -> None:  # noqa: FBT001
    """The report names a label that was probably meant as the exporter's."""
    key = LABEL.replace("metric.", "metrics.")
    simulated.stage.add("web", labels={key: "true"})
    lines = checked(simulated.url, container_health_filter_label=only_labelled)[1]

    assert f"1         the label {key} is not {LABEL}: web" == lines["typo?"]


def test_many_names_are_cut(simulated: Simulation) -> None:
    """The report names the first 20 watched containers and counts the rest."""
    for number in range(1000):
        simulated.stage.add(f"c{number:03}")

    watched = checked(simulated.url)[1]["watched"]

    assert watched.startswith("1000 of 1000 c000, c001, ")
    assert watched.endswith("c018, c019 and 980 more")


def test_a_name_breaks_no_line(simulated: Simulation) -> None:
    """Control characters in a name are escaped, so that they add no line and no colour."""
    simulated.stage.add("web\n\033[31mresult")

    assert "web\\n\\x1b[31mresult" in checked(simulated.url)[1]["watched"]


def test_colours(simulated: Simulation) -> None:
    """With colours, only the outcome is coloured; without, a line has no escape codes."""
    plain, coloured = (
        checked(simulated.url, coloured=coloured)[1]["ping"] for coloured in (False, True)
    )

    assert "\033" not in plain
    assert coloured.startswith("\033[32manswered \033[0m in ")


def test_exit_codes(simulated: Simulation, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 0 if health can be reported, else 1; output to a file has no colours."""
    codes = [
        cli.main(["check", "--docker-host", url])
        for url in (simulated.url, "unix:///nowhere/docker.sock")
    ]
    out = capsys.readouterr().out

    assert [0, 1] == codes
    assert 2 == out.count("result ")
    assert "\033" not in out


def failure(error: Exception) -> EngineError:
    """Return the error of a request that failed because of another one."""
    failed = engine_error("version", error)
    failed.__cause__ = error
    return failed


def version_line(url: str) -> str:
    """Return the report's line on `version` for an engine that can't be reached."""
    code, lines = checked(url)

    assert (1, ["not asked"] * 3) == (code, outcomes(lines)[1:])
    return lines["version"]


def test_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the socket is missing, the advice is to mount it, or to use another socket that exists."""
    monkeypatch.setattr(advice, "_OTHER_SOCKETS", (str(tmp_path / "other.sock"),))
    missing = tmp_path / "docker.sock"

    assert f"-v {missing}:{missing}:ro" in version_line(f"unix://{missing}")

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other.sock"))

        assert f"set DOCKER_HOST=unix://{tmp_path}/other.sock" in version_line(
            f"unix://{missing}"
        )


def test_something_else_in_place_of_the_socket(tmp_path: Path) -> None:
    """The report says if the path is a folder, as Docker makes of a missing mount source, or a file."""
    file = tmp_path / "docker.sock"
    file.write_text("")

    assert f"{tmp_path} is a folder" in version_line(f"unix://{tmp_path}")
    assert f"{file} is not a socket" in version_line(f"unix://{file}")


@pytest.mark.parametrize("other", advice._OTHER_SOCKETS[4:])
def test_sockets_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    """The sockets of Docker Desktop, Colima and Rancher Desktop are found."""
    monkeypatch.setattr(advice, "_OTHER_SOCKETS", (other,))
    monkeypatch.setenv("HOME", str(tmp_path))
    path = Path(other).expanduser()
    path.parent.mkdir(parents=True)
    with monkeypatch.context() as short, socket.socket(socket.AF_UNIX) as listener:
        short.chdir(path.parent)  # a socket's path has at most 107 bytes
        listener.bind(path.name)

    assert f"but a socket {path}: set DOCKER_HOST=unix://{path}" in version_line(
        f"unix://{tmp_path}/docker.sock"
    )


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_a_denial_that_the_mode_does_not_explain(tmp_path: Path, mode: int) -> None:
    """If the socket's mode allows the use, SELinux or AppArmor denies it, and no group helps."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(mode)
        advised = advise(failure(PermissionError(13, "denied")), f"unix://{path}")

    assert "SELinux or AppArmor denies it" in advised
    assert "--security-opt label=type:container_runtime_t" in advised
    assert "usermod" not in advised


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", True),
        ("SSLV3_ALERT_BAD_CERTIFICATE", True),
        ("TLSV1_ALERT_UNKNOWN_CA", True),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", False),
        ("UNSUPPORTED_PROTOCOL", False),
        ("UNEXPECTED_EOF_WHILE_READING", False),
    ],
)
def test_a_client_certificate_is_wanted(reason: str, wanted: bool) -> None:  # noqa: FBT001
    """The advice to present a certificate is given only if TLS says that it is the cause."""
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason

    advised = advise(failure(error), "https://127.0.0.1:2376")

    assert wanted == ("wants a client certificate" in advised)


def test_a_socket_without_engine(tmp_path: Path) -> None:
    """If nobody listens on the socket, the advice is to start the engine or to mount the socket's folder."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "docker.sock"))

    assert f"nobody listens on {tmp_path}/docker.sock: start the engine" in version_line(
        f"unix://{tmp_path}/docker.sock"
    )
    assert "mount the socket's folder" in version_line(f"unix://{tmp_path}/docker.sock")


def test_nobody_at_the_address() -> None:
    """A closed port and an unknown host name are reported as such."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    assert f"nobody listens at 127.0.0.1:{port}" in version_line(f"tcp://127.0.0.1:{port}")
    assert "no name server knows 'nowhere.invalid'" in version_line(
        "tcp://nowhere.invalid:2375"
    )


def test_version_denied_on_an_engine_that_refuses_old_versions(simulated: Simulation) -> None:
    """If `/version` is denied, the API version comes from the ping, even from a refused one.

    Docker 29.0 to 29.2 refuse versions below 1.44.
    """
    simulated.stage.add("web")
    plain = simulated.respond

    def respond(
        request: Request, endpoint: str, container_id: str, query: Mapping[str, str]
    ) -> None:
        if request.path.startswith("/v1.41/"):
            request.send(
                400, "application/json", b'{"message": "client version 1.41 is too old"}'
            )
        else:
            plain(request, endpoint, container_id, query)

    simulated.respond = respond  # type: ignore[method-assign]
    simulated.faults = {"version": DENIED}

    assert ["denied", "answered", "answered", "answered"] == outcomes(
        checked(simulated.url)[1]
    )


@pytest.mark.parametrize(
    ("options", "details", "denied", "line"),
    [
        ({}, True, False, "list      one list in each poll"),
        ({"containerd": True}, True, False, "inspect   each watched container is inspected"),
        (
            {"containerd": True, "api_version": "1.45"},
            True,
            False,
            "inspect   each watched container is inspected",
        ),
        (
            {"containerd": True},
            False,
            False,
            "list      one list in each poll, which is expensive on this engine: with CONTAINER_D",
        ),
        (
            {"containerd": True},
            True,
            True,
            "list      one list in each poll, which is expensive on this engine: each watched",
        ),
        ({"podman": True}, True, False, "inspect   each watched container is inspected"),
        ({"podman": True}, False, False, "inspect   each watched container is inspected"),
    ],
)
def test_the_mode(options: dict[str, Any], *, details: bool, denied: bool, line: str) -> None:
    """The report names the mode, and how to avoid expensive lists where that is possible."""
    with simulation(**options) as engine:
        engine.stage.add("web")
        if denied:
            engine.faults = {"inspect": DENIED}
        lines = checked(engine.url, container_details=details)[1]

    assert lines["mode"].startswith(line)


def test_exported_labels(simulated: Simulation) -> None:
    """The report names the container labels that are exported."""
    assert (
        "exported  com.example.team"
        == checked(simulated.url, container_labels="com.example.team")[1]["labels"]
    )
