"""An exporter that is one in all but its patience: it polls without a pause. A process of its own."""

import sys

from docker_prom_exporter import logs
from docker_prom_exporter.client import find_target
from docker_prom_exporter.commands import _serve
from docker_prom_exporter.engine import Engine
from docker_prom_exporter.settings import read_settings


def _main(docker_host: str, listen_port: str) -> None:
    settings = read_settings({"docker_host": docker_host, "listen_port": listen_port}, {})
    logs.configure("warning", settings.log_format)
    engine = Engine(find_target(settings.docker_host, {}), settings.docker_timeout)
    _serve(engine, settings._replace(poll_interval=0.0))


if __name__ == "__main__":
    _main(*sys.argv[1:])
