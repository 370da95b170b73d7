"""The bridge of a cluster, its subnet, and the wires to its hosts."""

import json
import re
import secrets
import subprocess
from collections.abc import Collection, Iterable
from typing import Any

from gateway.cluster.spec import Net
from gateway.errors import ClusterError

_GONE = ("Cannot find device", "No such device")
_SUBNET = re.compile(r"\b10\.77\.(\d+)\.")


def used_indexes(texts: Iterable[str]) -> set[int]:
    """The K of every 10.77.K.x in the output of `ip address` and `ip route`. Pure."""
    return {int(match) for text in texts for match in _SUBNET.findall(text)}


def choose(used: Collection[int], *, identity: str) -> Net:
    """The first subnet that nobody has. Pure."""
    for index in range(256):
        if index not in used:
            return Net(index, identity)
    raise ClusterError("all 256 subnets 10.77.K.0/24 are taken", hint="end some clusters: sluice cluster list")


def free(reserved: Collection[int]) -> Net:
    """A subnet that neither this machine's addresses and routes nor the `reserved` ones have."""
    texts = [_ip("-o", "address", "show"), _ip("route", "show", "table", "all")]
    bridges = {int(m[1]) for link in links() if (m := re.fullmatch(r"sluice(\d+)", link["ifname"]))}
    return choose(used_indexes(texts) | bridges | set(reserved), identity=secrets.token_hex(8))


def links() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(_ip("-json", "link", "show") or "[]")
    return found


def make_bridge(net: Net) -> bool:
    """Make it; False where a bridge of that name came up meanwhile (another cluster took the subnet)."""
    try:
        # The address comes with the creation: from its first moment on the bridge says whose it is.
        _ip("link", "add", "name", net.bridge, "address", net.bridge_mac, "type", "bridge", "forward_delay", "0")
    except ClusterError as error:
        if "File exists" in error.message:
            return False
        raise
    _ip("address", "add", f"{net.address(1)}/24", "dev", net.bridge)
    _ip("link", "set", net.bridge, "up")
    return True


def wire(net: Net, octet: int, pid: int) -> None:
    """A cable from the bridge to eth0 of the process's network namespace; it goes when that namespace goes."""
    name = net.veth(octet)
    _ip("link", "delete", name, missing_ok=True)  # of a host that was killed: the kernel takes its time with it
    _ip("link", "add", name, "master", net.bridge, "up", "type", "veth", "peer", "name", "eth0", "netns", str(pid))


def switch(net: Net, octet: int, *, on: bool) -> None:
    """Plug a host's cable in at the bridge, or pull it out."""
    _ip("link", "set", "dev", net.veth(octet), "up" if on else "down")


def remove(net: Net) -> bool:
    """Remove the bridge and what hangs on it, if it is this cluster's; says whether there was one."""
    mine = [link for link in links() if link["ifname"] == net.bridge and link.get("address") == net.bridge_mac]
    if not mine:
        return False
    for link in links():
        if link.get("master") == net.bridge:
            _ip("link", "delete", link["ifname"], missing_ok=True)
    _ip("link", "delete", net.bridge, missing_ok=True)
    return True


def _ip(*argv: str, missing_ok: bool = False) -> str:
    try:
        done = subprocess.run(["ip", *argv], check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ClusterError("the command `ip` is not on this machine", hint="apt-get install iproute2") from error
    if done.returncode != 0 and not (missing_ok and any(gone in done.stderr for gone in _GONE)):
        raise ClusterError(f"`ip {' '.join(argv)}` failed: {done.stderr.strip()}")
    return done.stdout
