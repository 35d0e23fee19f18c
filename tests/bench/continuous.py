"""The exporter in all but its patience: it polls without a pause. A process of its own, as users start it."""

import sys

from docker_prom_exporter import cli, commands
from docker_prom_exporter.poller import Poller


class _Hurried(Poller):
    def run(self) -> None:
        while not self._stop.is_set():
            self.poll()


if __name__ == "__main__":
    vars(commands)["Poller"] = _Hurried
    sys.exit(cli.main())
