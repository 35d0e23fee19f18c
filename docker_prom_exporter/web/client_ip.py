"""Find the client's address behind a proxy."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from http.client import HTTPMessage

# An element of Forwarded (RFC 7239): `for=192.0.2.60:4711`, `for="[2001:db8::17]:4711"`, or
# without a port.
_FORWARDED_FOR: Final = re.compile(
    r'(?:^|;)\s*for\s*=\s*"?(?:\[([^]";]*)|([^":;]*))', re.IGNORECASE
)

HEADERS: Final = {
    "RightmostXForwardedFor": "X-Forwarded-For",
    "RightmostForwarded": "Forwarded",
    "XRealIp": "X-Real-Ip",
    "CfConnectingIp": "CF-Connecting-IP",
    "TrueClientIp": "True-Client-IP",
    "FlyClientIp": "Fly-Client-IP",
    "CloudFrontViewerAddress": "CloudFront-Viewer-Address",
    "XEnvoyExternalAddress": "X-Envoy-External-Address",
}
"""The header for each value of `CLIENT_IP_SOURCE`; `ConnectInfo` uses no header."""


def client_address(headers: HTTPMessage, peer: str, source: str) -> str:
    """Return the client's address from the header of `source`.

    `peer` if the header has no valid address. A proxy appends to the header that a client
    sent, so the last address of the last such header counts.
    """
    values = headers.get_all(HEADERS.get(source, ""), [])
    if not values:
        return peer
    last = values[-1].rpartition(",")[2].strip()
    if source == "RightmostForwarded":
        last = _forwarded_for(last)
    elif source == "CloudFrontViewerAddress":
        # It always has a port.
        last = last.rpartition(":")[0].strip("[]")
    # The other headers have nothing but an address.
    try:
        return str(ipaddress.ip_address(last))
    except ValueError:
        return peer


def _forwarded_for(element: str) -> str:
    match = _FORWARDED_FOR.search(element)
    if match is None:
        return ""
    return match[1] or match[2] or ""
