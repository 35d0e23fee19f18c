"""The exporter with polls that follow each other without a pause, as a process."""

import sys

from docker_prom_exporter import cli, commands
from docker_prom_exporter.poller import Poller


class _ContinuousPoller(Poller):
    def run(self) -> None:
        while not self._stop.is_set():
            self.poll()


if __name__ == "__main__":
    vars(commands)["Poller"] = _ContinuousPoller
    sys.exit(cli.main())
