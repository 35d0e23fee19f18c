"""registry.kubernetes.yml: valid objects, that agree with the image, the program and registry.yml."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from ruamel.yaml import YAML

from docker_prom_exporter import web
from support.machine import COMPOSE
from support.storages import Document

FILE = COMPOSE / "registry.kubernetes.yml"
DOCKERFILE = (COMPOSE.parent / "Dockerfile").read_text()
POD_MONITOR = re.compile(r"^# With the Prometheus operator:\n#\n((?:# .*\n)+)", re.MULTILINE)


def objects() -> dict[str, Document]:
    """Return the objects in the file, by kind."""
    return {each["kind"]: each for each in YAML(typ="safe").load_all(FILE.read_text())}


def containers() -> dict[str, Document]:
    """Return the containers of the pod, by name."""
    pod = objects()["Deployment"]["spec"]["template"]["spec"]
    return {each["name"]: each for each in pod["containers"]}


def composed() -> Document:
    """Return the exporter's service in registry.yml."""
    services: dict[str, Document] = YAML(typ="safe").load(
        (COMPOSE / "registry.yml").read_text()
    )["services"]
    return services["docker-prom-exporter"]


@pytest.mark.parametrize("kind", ["PersistentVolumeClaim", "Deployment", "Service"])
def test_the_schema(kind: str) -> None:
    """Kubernetes' schema accepts each object, and no object has a field that it does not know."""
    kubernetes_validate.validate(objects()[kind], "1.34", strict=True)


def test_a_wrong_field_is_found() -> None:
    """The schema refuses a field that it does not know."""
    wrong: Any = objects()["Deployment"]
    wrong["spec"]["template"]["spec"]["fsGroup"] = 65534

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


def test_the_exporter_is_started_as_in_compose() -> None:
    """Arguments, variables, limits and the mount are those of registry.yml; the user is the image's."""
    exporter = containers()["docker-prom-exporter"]
    pod = objects()["Deployment"]["spec"]["template"]["spec"]
    user = pod["securityContext"]
    mount = exporter["volumeMounts"][0]

    assert composed()["command"] == exporter["args"]
    assert "command" not in exporter
    assert composed()["environment"].keys() == {each["name"] for each in exporter["env"]}
    assert composed()["mem_limit"] == exporter["resources"]["limits"]["memory"].replace(
        "Mi", "m"
    )
    assert [f"registry-data:{mount['mountPath']}:ro"] == composed()["volumes"]
    assert mount["readOnly"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}\n" in DOCKERFILE
    assert composed()["user"] == f"{user['runAsUser']}:{user['runAsGroup']}"


def test_both_use_one_volume() -> None:
    """The registry writes the volume that the exporter reads, at the same path, by fsGroup."""
    mounts = [each["volumeMounts"][0] for each in containers().values()]
    pod = objects()["Deployment"]["spec"]["template"]["spec"]

    assert {("storage", "/var/lib/registry")} == {(m["name"], m["mountPath"]) for m in mounts}
    assert pod["securityContext"]["runAsGroup"] == pod["securityContext"]["fsGroup"]
    claim = pod["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert objects()["PersistentVolumeClaim"]["metadata"]["name"] == claim


def test_ports_and_probes() -> None:
    """The port is the image's, the probe asks a path that the program has, and no scan keeps the registry waiting."""
    exporter = containers()["docker-prom-exporter"]
    program = Path(web.__file__).parent.joinpath("app.py").read_text()

    assert [9000] == [each["containerPort"] for each in exporter["ports"]]
    assert "EXPOSE 9000\n" in DOCKERFILE
    assert {"path": "/-/healthy", "port": "metrics"} == exporter["livenessProbe"]["httpGet"]
    assert '"/-/healthy"' in program
    assert "readinessProbe" not in exporter


def test_the_pod_monitor() -> None:
    """The PodMonitor in the comment selects the pod and scrapes the exporter's port."""
    found = POD_MONITOR.search(FILE.read_text())
    assert found
    monitor = YAML(typ="safe").load(found[1].replace("# ", "", 1).replace("\n# ", "\n"))
    labels = objects()["Deployment"]["spec"]["template"]["metadata"]["labels"]

    assert labels == monitor["spec"]["selector"]["matchLabels"]
    assert ["metrics"] == [each["port"] for each in monitor["spec"]["podMetricsEndpoints"]]
