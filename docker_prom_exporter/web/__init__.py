"""Serve an exposition and a status page over HTTP."""

from docker_prom_exporter.web.app import App, Site
from docker_prom_exporter.web.credentials import BearerToken, CredentialsError, ServerTls
from docker_prom_exporter.web.server import BoundedServer, listen
from docker_prom_exporter.web.status_page import StatusPage

__all__ = [
    "App",
    "BearerToken",
    "BoundedServer",
    "CredentialsError",
    "ServerTls",
    "Site",
    "StatusPage",
    "listen",
]
