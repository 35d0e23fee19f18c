"""Lets `python -m docker_prom_exporter` do what the installed command does."""

import sys

from docker_prom_exporter.cli import main

sys.exit(main())
