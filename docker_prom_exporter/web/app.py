"""Routes, and the credentials that each requires."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qs

import structlog

from docker_prom_exporter.web.client_ip import client_address
from docker_prom_exporter.web.negotiation import accepts_gzip, choose_exposition, prefers_html
from docker_prom_exporter.web.server import Request, Response, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from docker_prom_exporter.exposition import Exposition
    from docker_prom_exporter.web.credentials import BearerToken
    from docker_prom_exporter.web.status_page import StatusPage

_MAX_QUERY_FIELDS: Final = 1000
_PROTECTED_PATHS: Final = ("/metrics", "/")
_VARY: Final = ("Vary", "Accept, Accept-Encoding")

# One header for each challenge: Chromium reads only the first challenge of a header.
_CHALLENGES: Final = (
    ("WWW-Authenticate", "Bearer"),
    ("WWW-Authenticate", 'Basic realm="docker-prom-exporter", charset="UTF-8"'),
)


class Site(NamedTuple):
    """What the app serves."""

    exposition: Exposition
    is_healthy: Callable[[], bool]  # for /-/healthy
    is_ready: Callable[[], bool]  # for /-/ready
    page: StatusPage | None = None  # without one, / is /metrics


class App:
    """Answers requests. It is thread-safe."""

    def __init__(
        self, site: Site, client_ip_source: str, token: BearerToken | None = None
    ) -> None:
        self._site = site
        self._client_ip_source = client_ip_source
        self._token = token
        self._log = structlog.get_logger()
        self._routes: dict[str, Callable[[Request], Response]] = {
            "/metrics": self._metrics,
            "/": self._root,
            "/ping": lambda _: Response(HTTPStatus.OK, (b"pong",)),
            "/-/healthy": self._health,
            "/-/ready": self._readiness,
        }

    def __call__(self, request: Request) -> Response:
        """Answer and log a request."""
        response = self._respond(request)
        self._log.debug(
            "http.request",
            client=client_address(request.headers, request.peer, self._client_ip_source),
            method=request.method,
            path=request.path,
            status=int(response.status),
        )
        return response

    def _respond(self, request: Request) -> Response:
        route = self._routes.get(request.path)
        if route is None:
            return refusal(HTTPStatus.NOT_FOUND, f"try one of {' '.join(self._routes)}")
        # Before the method, about which a client without credentials learns nothing.
        if request.path in _PROTECTED_PATHS:
            if not request.certified:
                return refusal(HTTPStatus.FORBIDDEN, "this needs a client certificate")
            if not self._has_token(request):
                explanation = "this needs the bearer token, or the token as password"
                return refusal(HTTPStatus.UNAUTHORIZED, explanation, *_CHALLENGES)
        if request.method not in ("GET", "HEAD"):
            return refusal(
                HTTPStatus.METHOD_NOT_ALLOWED, "try GET or HEAD", ("Allow", "GET, HEAD")
            )
        try:
            return route(request)
        except Exception as error:  # noqa: BLE001  a failed request must not close the connection
            self._log.error("http.failed", path=request.path, exc_info=error)
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "see the log")

    def _has_token(self, request: Request) -> bool:
        if self._token is None:
            return True
        return self._token.matches(request.headers.get("Authorization", ""))

    def _root(self, request: Request) -> Response:
        """Return the status page to browsers and the exposition to other clients."""
        page = self._site.page
        if page is None or not prefers_html(_joined(request, "Accept")):
            return self._metrics(request)
        gzipped = accepts_gzip(_joined(request, "Accept-Encoding"))
        html = page.render(refreshing="refresh=off" not in request.query, gzipped=gzipped)
        headers = (_VARY, *page.headers, *_encoding(gzipped=gzipped))
        return Response(HTTPStatus.OK, (html,), "text/html; charset=utf-8", headers)

    def _metrics(self, request: Request) -> Response:
        try:
            query = parse_qs(request.query, max_num_fields=_MAX_QUERY_FIELDS)
        except ValueError:
            explanation = f"a query may have {_MAX_QUERY_FIELDS} fields"
            return refusal(HTTPStatus.BAD_REQUEST, explanation)
        form, content_type = choose_exposition(_joined(request, "Accept"))
        answer = self._site.exposition.render(
            form,
            gzipped=accepts_gzip(_joined(request, "Accept-Encoding")),
            names={*query.get("name[]", [])},
        )
        headers = (_VARY, *_encoding(gzipped=answer.gzipped))
        return Response(HTTPStatus.OK, answer.body, content_type, headers)

    def _health(self, _: Request) -> Response:
        if self._site.is_healthy():
            return Response(HTTPStatus.OK, (b"healthy\n",))
        return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the exporter is stuck")

    def _readiness(self, _: Request) -> Response:
        if self._site.is_ready():
            return Response(HTTPStatus.OK, (b"ready\n",))
        return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "there is no result yet")


def _encoding(*, gzipped: bool) -> tuple[tuple[str, str], ...]:
    if gzipped:
        return (("Content-Encoding", "gzip"),)
    return ()


def _joined(request: Request, name: str) -> str:
    # A header may be given in several lines.
    return ",".join(request.headers.get_all(name, []))
