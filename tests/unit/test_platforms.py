"""The package imports without POSIX; tests/run type-checks the package for the other platforms."""

import sys

from support.documents import REPOSITORY
from support.processes import completed

# The libraries are imported before the names are removed: they may need the names on this platform.
IMPORT = """
import importlib, os, pkgutil, signal, socketserver, sys
import docker, prometheus_client, requests, structlog, structlog.dev, tenacity, urllib3
import asyncio, http.server, importlib.metadata, ssl, tempfile
for name in ("grp", "pwd"):
    sys.modules[name] = None
for module, names in ((signal, ("SIGHUP", "pthread_sigmask", "sigwait")), (os, ("getuid", "fchmod")),
                      (socketserver, ("ThreadingUnixStreamServer", "UnixStreamServer"))):
    for name in names:
        delattr(module, name)
sys.platform = "win32"
import docker_prom_exporter as package
for found in pkgutil.walk_packages(package.__path__, "docker_prom_exporter."):
    if not found.name.endswith("__main__"):
        print(importlib.import_module(found.name).__name__)
"""


def test_imports_without_posix() -> None:
    """Each module imports without the names that only POSIX has."""
    done = completed([sys.executable, "-c", IMPORT], cwd=REPOSITORY)

    assert (0, "") == (done.returncode, done.stderr)
    assert {"docker_prom_exporter.commands", "docker_prom_exporter.demo.engine"} <= {
        *done.stdout.split()
    }
