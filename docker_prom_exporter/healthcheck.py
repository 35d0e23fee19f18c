"""Owns the question to a running exporter whether it is healthy: quick, by the standard library alone."""

from __future__ import annotations

import http.client
import sys
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from docker_prom_exporter.settings import Settings

_SECONDS: Final = 2


def healthcheck(settings: Settings) -> int:
    """Ask `/-/healthy` at the address and port of the same settings; print the answer, return 0 or 1."""
    connection = http.client.HTTPConnection(_reachable(settings.listen_addr), settings.listen_port, _SECONDS)
    try:
        connection.request("GET", "/-/healthy")
        response = connection.getresponse()
        healthy = response.status == 200
        text = response.read(200).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        healthy, text = False, f"no answer from {settings.listen_addr} port {settings.listen_port}: {error}"
    finally:
        connection.close()
    sys.stdout.write(f"{text}\n")
    return 0 if healthy else 1


def _reachable(address: str) -> str:
    """Return where to reach an exporter that listens on the address: all addresses include the loopback."""
    ip = ip_address(address)
    if not ip.is_unspecified:
        return address
    return "127.0.0.1" if ip.version == 4 else "::1"
