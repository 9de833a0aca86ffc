"""Networks whose containers have links of their own on an interface of the host: what macvlan and ipvlan share.

Owns: the parent interface (found, or made by the network: a VLAN of another, a dummy where none is named) and the link
of an endpoint, which is made in the container's namespace and has no end on the host. Refuses to know: the modes there
are (macvlan.py, ipvlan.py). Published ports mean nothing here: containers are on the wire themselves.
Source: moby daemon/libnetwork/drivers/{macvlan,ipvlan}.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Protocol

import msgspec

from engine.aggregates.values.ids import NetworkID, short
from engine.drivers.linux.network import links, netlink
from engine.drivers.linux.network.links import Link
from engine.drivers.ports.network import Join, NetworkSpec
from engine.errors import Fault, PortError

PARENT = "parent"
ALIAS = "ishmael:"
_VLAN_MAX = 4094
_NOBODY = 0x7FFFFFF0
"""The index of no link."""


class SublinkDriver(Protocol):
    """kind: the kernel's word for it. dummy: the beginning of the name of a parent that the network makes itself."""

    kind: str
    dummy: str

    def data(self, spec: NetworkSpec) -> bytes:
        """What the kernel is told of a link's mode. Raises PortError(INVALID)."""
        ...


class Parent(msgspec.Struct, frozen=True, kw_only=True):
    """name: of the interface. under: the one that it is VLAN `vlan` of, "" for none. dummy: a link to nowhere."""

    name: str
    under: str = ""
    vlan: int = 0
    dummy: bool = False


def parent_of(driver: SublinkDriver, spec: NetworkSpec) -> Parent:
    """As the options name it: `eth0`, `eth0.10`, or none. Raises PortError(INVALID)."""
    name = spec.options.get(PARENT, "")
    if not name:
        return Parent(name=f"{driver.dummy}{short(spec.network_id)}", dummy=True)
    if name == "lo":
        raise _invalid(f"loopback interface is not a valid {driver.kind} parent link")
    under, dot, number = name.rpartition(".")
    if not dot:
        return Parent(name=name)
    if not number.isdecimal() or not 1 <= int(number) <= _VLAN_MAX:
        return Parent(name=name)  # It may be there under this very name.
    return Parent(name=name, under=under, vlan=int(number))


def create(route: socket.socket, driver: SublinkDriver, spec: NetworkSpec) -> None:
    """See that the parent is there. All or nothing. Raises PortError."""
    _assert_known(route, driver, driver.data(spec))
    parent = parent_of(driver, spec)
    found = links.find(route, parent.name)
    if found is None:
        found = _make(route, driver, spec.network_id, parent)
    if not found.up and found.alias == ALIAS + spec.network_id:
        netlink.transact(route, [links.set_link(found.index, up=True)])


def _assert_known(route: socket.socket, driver: SublinkDriver, data: bytes) -> None:
    """A kernel that knows the kind refuses a link on no parent for the lack of one; another does not get that far."""
    with open("/proc/thread-self/ns/net") as here:
        try:
            netlink.transact(route, [links.new_sublink("ishmael-probe", _NOBODY, driver.kind, data, here.fileno())])
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise refused("failed to create the network", f"{driver.kind} interfaces", error) from error


def _make(route: socket.socket, driver: SublinkDriver, network_id: NetworkID, parent: Parent) -> Link:
    if parent.dummy:
        request = links.new_dummy(parent.name)
    elif parent.under:
        under = links.find(route, parent.under)
        if under is None:
            raise _invalid(f"failed to find master interface {parent.under} on the Docker host: Link not found")
        request = links.new_vlan(parent.name, under.index, parent.vlan)
    elif "." in parent.name:
        raise _invalid(f"vlan id must be between 1-{_VLAN_MAX}, received: {parent.name.rpartition('.')[2]}")
    else:
        raise _invalid(f"invalid subinterface vlan name {parent.name}, example formatting is eth0.10")
    try:
        netlink.transact(route, [request, links.mark(parent.name, ALIAS + network_id)])
    except OSError as error:
        what = "dummy interfaces" if parent.dummy else "VLAN interfaces"
        raise refused(f"failed to create the {driver.kind} parent {parent.name}", what, error) from error
    found = links.find(route, parent.name)
    assert found is not None, "a link just made is there"
    return found


def remove(route: socket.socket, driver: SublinkDriver, spec: NetworkSpec) -> None:
    """A parent that the network made goes with it; others are the host's. Idempotent."""
    found = links.find(route, parent_of(driver, spec).name)
    if found is not None and found.alias == ALIAS + spec.network_id:
        netlink.transact(route, [links.delete_link_at(found.index)])


def connect(route: socket.socket, driver: SublinkDriver, join: Join, netns_fd: int, inside: socket.socket) -> int:
    """Make the endpoint's link in the namespace, still down; its index there. Raises PortError, OSError."""
    parent = links.find(route, parent_of(driver, join.network).name)
    if parent is None:
        words = f"network {join.network.network_id} has no parent interface"
        raise PortError("join", words, fault=Fault.NOT_FOUND)
    made = links.new_sublink(join.interface, parent.index, driver.kind, driver.data(join.network), netns_fd)
    try:
        netlink.transact(route, [made])
    except OSError as error:
        what = f"{driver.kind} interfaces"
        raise refused(f"failed to create the {driver.kind} port on {parent.name}", what, error) from error
    found = links.find(inside, join.interface)
    assert found is not None, "a link just made is there"
    return found.index


def refused(words: str, what: str, error: OSError) -> PortError:
    """what: interfaces of the kind that was asked for, for a kernel that has none such."""
    if error.errno == errno.EOPNOTSUPP:
        message = f"{words}: this kernel has no {what}"
        return PortError("create", message, fault=Fault.NOT_IMPLEMENTED, errno=errno.EOPNOTSUPP)
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return PortError("create", f"{words}: {reason}", errno=error.errno or 0)


def _invalid(words: str) -> PortError:
    return PortError("create", words, fault=Fault.INVALID)
