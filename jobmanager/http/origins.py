"""Find out where a request comes from: the client's address, the Host, and the page for which a browser sent it.

Reads only the WSGI environment. Refuses no requests: see security.py.
Sources: Go 1.25, net/http.CrossOriginProtection; OWASP, "Cross-Site Request Forgery Prevention Cheat Sheet"; W3C, Fetch
Metadata Request Headers; web.dev, "Protect your resources from web attacks with Fetch Metadata".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobmanager.core import hosts
from jobmanager.core.hosts import Host

#: The WSGI environment of a request.
Environment = Mapping[str, Any]

_OWN_SITES = ("same-origin", "none")


def is_from_this_machine(environ: Environment) -> bool:
    """Return True if the client is on this machine: it has a loopback address, or uses a Unix socket (empty address).

    Return False if the server does not give the address at all.
    """
    address = environ.get("REMOTE_ADDR")
    return address is not None and (address == "" or hosts.is_loopback(address))


def lacks_host(environ: Environment) -> bool:
    """Return True if Host is missing, but required. Every version except HTTP/1.0 requires it (RFC 9112 §3.2)."""
    return "HTTP_HOST" not in environ and environ.get("SERVER_PROTOCOL") != "HTTP/1.0"


def names_known_host(environ: Environment, listed: Sequence[Host]) -> bool:
    """Return True if the Host header names this machine, the bound address or a listed host.

    Protects against DNS rebinding: a page whose host name was made to resolve to this machine. Returns True if there is
    no Host header. Every browser sends the header, so such a request is not from a browser.
    """
    text = environ.get("HTTP_HOST")
    if text is None:
        return True
    named = hosts.parse(text)
    if named is None:
        return False
    return named.is_local() or any(host.covers(named) for host in listed) or named.name in _bound_addresses(environ)


def _bound_addresses(environ: Environment) -> Iterator[str]:
    """Yield the addresses that the client connected to. Skip names, since some servers copy SERVER_NAME from Host."""
    names = [str(environ.get("SERVER_NAME", ""))]
    if (connection := environ.get("gunicorn.socket")) is not None:
        with contextlib.suppress(OSError):  # the client has left
            names.append(str(connection.getsockname()[0]))
    for name in names:
        host = hosts.parse(f"[{name}]" if ":" in name else name)
        if host is not None and host.is_address():
            yield host.name


def may_change(environ: Environment) -> bool:
    """Return True unless a browser sent the request for a page of another origin.

    Sec-Fetch-Site decides, but browsers send it only to trustworthy addresses (HTTPS, loopback). If it is missing,
    Origin must name the request's own host. If Origin is missing, too, Referer must. Returns True if all three are
    missing. Schemes are not compared: TLS may end at a proxy.
    """
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site is not None:
        return site in _OWN_SITES
    source = environ.get("HTTP_ORIGIN") or environ.get("HTTP_REFERER")
    return not source or _is_own(source, environ)


def may_read(environ: Environment) -> bool:
    """Return True unless a browser sent the request for a page of another origin. To follow a link is allowed.

    This is the Resource Isolation Policy. Without Sec-Fetch-Site, Origin decides: browsers send no Origin when they
    follow a link.
    """
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site is None:
        origin = environ.get("HTTP_ORIGIN")
        return not origin or _is_own(origin, environ)
    return site in _OWN_SITES or _follows_link(environ)


def hides_its_page(environ: Environment) -> bool:
    """Return True if a browser sent the request and does not say for which page.

    A page can make the browser omit Referer, but not User-Agent and Accept-Language: these two identify a browser.
    User-Agent begins alike in every browser. Programs that pose as a browser seldom send Accept-Language.
    """
    is_browser = environ.get("HTTP_USER_AGENT", "").startswith("Mozilla/") and "HTTP_ACCEPT_LANGUAGE" in environ
    says_page = any(environ.get(name) for name in ("HTTP_SEC_FETCH_SITE", "HTTP_ORIGIN", "HTTP_REFERER"))
    return is_browser and not says_page


def _is_own(source: str, environ: Environment) -> bool:
    origin, own = hosts.parse_origin(source), hosts.parse(environ.get("HTTP_HOST", ""))
    return origin is not None and own is not None and origin.covers(own)


def _follows_link(environ: Environment) -> bool:
    """Return True if a browser navigates a tab to the address. Return False if it loads a frame or an image."""
    goes_to = environ.get("HTTP_SEC_FETCH_DEST", "document")
    return environ.get("HTTP_SEC_FETCH_MODE") == "navigate" and goes_to == "document"
