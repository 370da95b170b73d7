"""Where a request comes from: as the connection says it, or as a reverse proxy says it whom the site trusts.

What anybody may write into a header is believed from nobody else. The chain is read from its end: every proxy adds
whom it saw, so the first address from there that is no trusted proxy's is the caller's.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Literal, NamedTuple

Headers = Iterable[tuple[bytes, bytes]]

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_PAIR = re.compile(r"""\s*([A-Za-z0-9!#$%&'*+.^_`|~-]+)=("(?:[^"\\]|\\.)*"|[A-Za-z0-9!#$%&'*+.^_`|~-]+)\s*""")
_LONGEST_CHAIN = 32


class Seen(NamedTuple):  # one a request: a frozen dataclass takes three times as long to make
    """A request's caller: their address, how they came (`http` or `https`), and the host that they asked for."""

    address: str
    scheme: str
    host: str
    proxied: bool = False


class Proxies:
    """The reverse proxies that are believed."""

    def __init__(
        self, trusted: Sequence[str] = (), header: Literal["x-forwarded", "forwarded"] = "x-forwarded"
    ) -> None:
        self._networks = tuple(ip_network(word, strict=False) for word in trusted)
        self._chain = _forwarded if header == "forwarded" else _x_forwarded

    def trusts(self, address: str) -> bool:
        """Whether a proxy is at this address."""
        if not self._networks:
            return False
        found = _address(address)
        return found is not None and any(found in network for network in self._networks)

    def seen(self, peer: str, scheme: str, host: str, headers: Headers) -> Seen:
        """Who asks, when `peer` is who connected."""
        if not self.trusts(peer):
            return Seen(plain(peer), scheme, host)
        address = plain(peer)
        for hop in reversed(self._chain(headers)[-_LONGEST_CHAIN:]):
            if hop.scheme in {"http", "https"}:
                scheme = hop.scheme
            if _HOST.fullmatch(hop.host):
                host = hop.host
            found = _address(hop.address)
            if found is None:
                break
            address = str(found)
            if not self.trusts(address):
                break
        return Seen(address, scheme, host, proxied=True)


@dataclass(frozen=True, slots=True)
class _Hop:
    """Whom one proxy saw, and what they asked it for; empty where it said nothing."""

    address: str = ""
    scheme: str = ""
    host: str = ""


def plain(address: str) -> str:
    """An address as it is compared and written down: an IPv4 one that came by an IPv6 socket is the same."""
    found = _address(address)
    return str(found) if found is not None else address


@lru_cache(maxsize=4096)  # connections carry many requests
def _address(word: str) -> IPv4Address | IPv6Address | None:
    """`192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`; None for anything else."""
    word = word.strip()
    if word.startswith("["):
        word = word[1:].partition("]")[0]
    elif word.count(":") == 1:
        word = word.partition(":")[0]
    try:
        found = ip_address(word)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def _x_forwarded(headers: Headers) -> list[_Hop]:
    """One hop for each address. Protocol and host go with it one by one; a single one is of who is asked first."""
    found: dict[bytes, list[str]] = {}
    for name, value in headers:
        if name in _X_FORWARDED:
            found.setdefault(name, []).extend(word.strip() for word in value.decode("latin-1").split(","))
    addresses, schemes, hosts = (found.get(name, []) for name in _X_FORWARDED)
    size = max(len(addresses), 1)
    padded = addresses or [""]
    return [
        _Hop(address, _at(schemes, number, size).lower(), _at(hosts, number, size))
        for number, address in enumerate(padded)
    ]


_X_FORWARDED = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")


def _at(words: Sequence[str], number: int, size: int) -> str:
    """What goes with one of `size` addresses: the proxy that we see ourselves speaks last, and may speak for all."""
    if len(words) == size:
        return words[number]
    return words[-1] if words and number == size - 1 else ""


def _forwarded(headers: Headers) -> list[_Hop]:
    text = ",".join(value.decode("latin-1") for name, value in headers if name == b"forwarded")
    hops: list[_Hop] = []
    for element in _split(text, ","):
        pairs: Mapping[str, str] = {
            pair[1].lower(): _unquoted(pair[2])
            for pair in (_PAIR.fullmatch(part) for part in _split(element, ";"))
            if pair is not None
        }
        hops.append(_Hop(pairs.get("for", ""), pairs.get("proto", "").lower(), pairs.get("host", "")))
    return hops


def _split(text: str, at: str) -> list[str]:
    """Parts between separators that stand outside of quotes."""
    return [part for part in re.findall(rf'(?:[^{at}"]|"(?:[^"\\]|\\.)*")+', text) if part.strip()]


def _unquoted(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith('"') else word
