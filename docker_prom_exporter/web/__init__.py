"""The web side: one listener, the routes, and who may see what."""

from docker_prom_exporter.web.server import Web, listen

__all__ = ["Web", "listen"]
