"""The web side: an exposition and a status page over HTTP."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from docker_prom_exporter.web.app import App, Site
from docker_prom_exporter.web.credentials import BearerToken, CredentialsError, ServerTls
from docker_prom_exporter.web.server import BoundedServer, listen
from docker_prom_exporter.web.status_page import StatusPage

if TYPE_CHECKING:
    import socket

__all__ = ["BearerToken", "CredentialsError", "ServerTls", "Site", "StatusPage", "Web", "listen"]

_STOP_TIMEOUT: Final = 0.4


class Web:
    """Serves a site: one thread accepts connections, and each connection has one."""

    def __init__(
        self,
        listener: socket.socket,
        site: Site,
        client_ip_source: str,
        *,
        tls: ServerTls | None = None,
        token: BearerToken | None = None,
    ) -> None:
        self._server = BoundedServer(listener, App(site, client_ip_source, token), tls)
        self._thread = threading.Thread(target=self._server.serve_forever, name="web", daemon=True)

    def start(self) -> None:
        """Begin to accept; connections made since `listen` have been waiting."""
        self._thread.start()

    def stop(self) -> None:
        """Close the listener and every connection, within half a second."""
        self._server.stop()
        self._thread.join(_STOP_TIMEOUT)
        self._server.server_close()
