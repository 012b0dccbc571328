"""Parse host names and addresses of Host, Origin and Referer headers and of JOBMANAGER_HOSTS.

Pure: resolves no name, opens no socket.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

#: Longest text to parse: the 255 characters that DNS allows (RFC 1035 §2.3.4), two brackets and a port.
_LONGEST = 263
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Host(NamedTuple):
    """A host and its port."""

    #: in lower case; an address in its shortest form, without brackets
    name: str
    #: None: not given
    port: int | None

    def covers(self, other: Host) -> bool:
        """Return True if *other* has this name and this port. If this host has no port, any port matches.

        If *other* has no port, it matches both 80 and 443: behind a proxy that terminates TLS, only the client knows
        which of the two it uses.

        >>> Host("jobs.lan", None).covers(Host("jobs.lan", 8080)), Host("jobs.lan", 443).covers(Host("jobs.lan", None))
        (True, True)
        """
        if self.name != other.name:
            return False
        return self.port in (None, other.port) or (other.port is None and self.port in _DEFAULT_PORTS.values())

    def is_local(self) -> bool:
        """Return True if a browser resolves the name to this machine without asking DNS (RFC 6761 §6.3).

        >>> [parse(text).is_local() for text in ("localhost:80", "a.localhost", "[::1]", "127.9.9.9", "localhost.lan")]
        [True, True, True, True, False]
        """
        return self.name.endswith(".localhost") or is_loopback(self.name)

    def is_address(self) -> bool:
        """Return True if the name is an IP address."""
        return _address(self.name) is not None


@lru_cache(maxsize=256)
def parse(text: str) -> Host | None:
    """Return the host that a Host header names; None if the header is not valid.

    >>> parse("Jobs.LAN:8080"), parse("[0:0::1]"), parse("http://jobs.lan")
    (Host(name='jobs.lan', port=8080), Host(name='::1', port=None), None)
    """
    found = _HOST.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        return None
    bracketed, name, port = found.groups()
    address = _address(bracketed or name)
    if bracketed and address is None:
        return None
    shown = str(address) if address is not None else name.lower().removesuffix(".")
    return Host(shown, int(port) if port else None)


def parse_origin(text: str) -> Host | None:
    """Return the host and port of an Origin or Referer header; None if the header is not a valid HTTP or HTTPS URL.

    >>> parse_origin("https://jobs.lan/page?x#y"), parse_origin("null")
    (Host(name='jobs.lan', port=443), None)
    """
    scheme, separator, rest = text.partition("://")
    found = parse(re.split("[/?#]", rest, maxsplit=1)[0])
    default = _DEFAULT_PORTS.get(scheme.lower())
    if not separator or found is None or default is None:
        return None
    return found if found.port is not None else found._replace(port=default)


def parse_all(texts: Iterable[str]) -> tuple[Host, ...]:
    """Parse the hosts that a setting lists. Raises ValueError, whose message names the first invalid one."""
    found = []
    for text in texts:
        host = parse(text)
        if host is None:
            raise ValueError(f"{text!r} is not a host with an optional port, such as jobs.example or [fd00::7]:8080")
        found.append(host)
    return tuple(found)


def is_loopback(host: str) -> bool:
    """Return True if a socket that is bound to the host can be reached from this machine only.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "db.example")]
    [True, True, True, False, False, False]
    """
    address = _address(host.strip("[]").partition("%")[0])
    if address is None:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
