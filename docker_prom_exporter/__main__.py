"""Run the command as `python -m docker_prom_exporter`."""

import sys

from docker_prom_exporter.cli import main

sys.exit(main())
