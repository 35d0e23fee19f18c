"""Qualities, versions and escaping schemes in `Accept`, and qualities in `Accept-Encoding`."""

import pytest

from docker_prom_exporter.exposition import OPENMETRICS, TEXT, Format
from docker_prom_exporter.web.negotiation import accepts_gzip, choose_exposition, prefers_html
from support.snapshots import BROWSER

# What Prometheus 2 and 3 send.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "form", "escaping"),
    [
        ("", TEXT, ""),
        ("*/*", TEXT, ""),
        ("text/html,application/xhtml+xml", TEXT, ""),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", TEXT, "allow-utf-8"),
        ("application/openmetrics-text", OPENMETRICS, ""),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS, ""),
        ('Application/OpenMetrics-Text;VERSION="1.0.0"', OPENMETRICS, ""),
        (PROMETHEUS, OPENMETRICS, ""),
        (PROMETHEUS_3, OPENMETRICS, "allow-utf-8"),
        ("application/openmetrics-text; escaping=values", OPENMETRICS, "values"),
        ("application/openmetrics-text; escaping=x", OPENMETRICS, ""),
        ("text/plain, application/openmetrics-text", OPENMETRICS, ""),
        ("text/plain, application/openmetrics-text;q=0.9", TEXT, ""),
        ("text/plain;q=0.8, application/openmetrics-text;q=0.9", OPENMETRICS, ""),
        ("application/openmetrics-text;q=0, text/plain", TEXT, ""),
        ("application/openmetrics-text;q=0", TEXT, ""),
        ("application/openmetrics-text;q=0.000", TEXT, ""),
        ("application/openmetrics-text;q=0.5, */*", TEXT, ""),
        ("application/openmetrics-text;q=2", TEXT, ""),
        ("application/openmetrics-text;q=x, text/plain;q=0.1", TEXT, ""),
        ("application/openmetrics-text; version=0.0.1", TEXT, ""),
        ("application/openmetrics-text; version=2.0.0", TEXT, ""),
        ("application/openmetrics-text; version=1.0.1", TEXT, ""),
        ("application/openmetrics-text; version=1.0.0.0", TEXT, ""),
        ("application/openmetrics-text; version=", TEXT, ""),
        (
            "application/openmetrics-text;version=2.0.0, application/openmetrics-text",
            OPENMETRICS,
            "",
        ),
        ("application/openmetrics-textual", TEXT, ""),
        (";;,=,", TEXT, ""),
        ("\xff", TEXT, ""),
    ],
)
def test_format(accept: str, form: Format, escaping: str) -> None:
    """OpenMetrics 1.0.0 is served if the client prefers it; the content type has its escaping."""
    content_type = (
        f"{form.content_type}; escaping={escaping}" if escaping else form.content_type
    )

    assert (form, content_type) == choose_exposition(accept)


def test_unknown_formats_are_one_of_two() -> None:
    """Whatever clients accept, there are two formats, so that none costs an encoding of its own."""
    forms = set()
    for number in range(50):
        forms.add(choose_exposition(f"application/openmetrics-text; version=1.0.{number}")[0])
        forms.add(choose_exposition(f"text/plain; version={number}; escaping={number}")[0])

    assert {TEXT, OPENMETRICS} == forms


@pytest.mark.parametrize(
    ("header", "gzipped"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0, br", False),
        ("gzip;q=x", False),
        ("", False),
        ("deflate", False),
        ("gzipped", False),
    ],
)
def test_encoding(header: str, *, gzipped: bool) -> None:
    """The body is gzipped only if the client accepts gzip."""
    assert gzipped == accepts_gzip(header)


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html, text/plain, */*;q=0.01", True),
        ("Text/HTML; q=0.5", True),
        (PROMETHEUS, False),
        ("*/*", False),
        ("", False),
        ("text/html;q=0.4, text/plain", False),
        ("text/html;q=0", False),
        ("text/html;q=nonsense", False),
        (",;q=;,", False),
    ],
)
def test_who_gets_the_page(accept: str, *, html: bool) -> None:
    """A client gets HTML if it names HTML and prefers no other available format."""
    assert html == prefers_html(accept)


def test_a_long_header_is_not_read() -> None:
    """A header that no client sends counts as absent, so that reading it costs others no time."""
    rest = ",a" * 500

    assert TEXT == choose_exposition(f"application/openmetrics-text{rest}")[0]
    assert not accepts_gzip(f"gzip{rest}")
    assert not prefers_html(f"text/html{rest}")
