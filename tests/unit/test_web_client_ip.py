"""The source of the client's address in the access log."""

from email import message_from_string
from http.client import HTTPMessage
from typing import Any

import pytest

from docker_prom_exporter.settings import CLIENT_IP_SOURCES
from docker_prom_exporter.web.client_ip import HEADERS, client_address

PEER = "192.0.2.99"


def headers_of(**headers: str | list[str]) -> HTTPMessage:
    lines = [
        f"{name.replace('_', '-')}: {value}"
        for name, values in headers.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    return message_from_string("\r\n".join([*lines, "", ""]), _class=HTTPMessage)


@pytest.mark.parametrize(
    ("source", "headers", "address"),
    [
        ("ConnectInfo", {"X_Forwarded_For": "192.0.2.1"}, PEER),
        ("RightmostXForwardedFor", {"X_Forwarded_For": "192.0.2.1, 192.0.2.2"}, "192.0.2.2"),
        (
            "RightmostXForwardedFor",
            {"X_Forwarded_For": ["192.0.2.1", "192.0.2.2,2001:db8::3"]},
            "2001:db8::3",
        ),
        (
            "RightmostForwarded",
            {"Forwarded": "for=192.0.2.1, for=192.0.2.2;proto=https"},
            "192.0.2.2",
        ),
        (
            "RightmostForwarded",
            {"Forwarded": 'proto=https;For="[2001:db8:cafe::17]:4711"'},
            "2001:db8:cafe::17",
        ),
        ("RightmostForwarded", {"Forwarded": "for=192.0.2.7:4711"}, "192.0.2.7"),
        ("RightmostForwarded", {"Forwarded": "for=_hidden"}, PEER),
        ("XRealIp", {"X_Real_Ip": "192.0.2.3"}, "192.0.2.3"),
        ("CfConnectingIp", {"CF_Connecting_IP": "2001:db8::4"}, "2001:db8::4"),
        ("TrueClientIp", {"True_Client_IP": "192.0.2.5"}, "192.0.2.5"),
        ("FlyClientIp", {"Fly_Client_IP": "192.0.2.6"}, "192.0.2.6"),
        (
            "CloudFrontViewerAddress",
            {"CloudFront_Viewer_Address": "192.0.2.8:46532"},
            "192.0.2.8",
        ),
        (
            "CloudFrontViewerAddress",
            {"CloudFront_Viewer_Address": "2001:db8::8:46532"},
            "2001:db8::8",
        ),
        ("XEnvoyExternalAddress", {"X_Envoy_External_Address": "192.0.2.9"}, "192.0.2.9"),
    ],
)
def test_finds_the_client_behind_a_proxy(
    source: str, headers: dict[str, Any], address: str
) -> None:
    """The client's address is the one that the nearest proxy added to the configured header."""
    assert address == client_address(headers_of(**headers), PEER, source)


@pytest.mark.parametrize(
    "value", [None, "", ",", "nonsense", "999.1.1.1", "for=", 'for="', ":", "[", "x" * 5000]
)
def test_a_missing_or_malformed_header(value: str | None) -> None:
    """If the header is missing or malformed, the client's address is that of the connection."""
    names = [name.replace("-", "_") for name in HEADERS.values()]
    headers: dict[str, Any] = {} if value is None else dict.fromkeys(names, value)

    assert dict.fromkeys(CLIENT_IP_SOURCES, PEER) == {
        source: client_address(headers_of(**headers), PEER, source)
        for source in CLIENT_IP_SOURCES
    }
