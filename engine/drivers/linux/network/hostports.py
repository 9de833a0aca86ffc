"""Bound sockets that keep published host ports ours.

Owns: one listening (TCP) or bound (UDP) socket for each published address, held as long as the port is published.
Refuses to know: how packets get to the container. Where DNAT serves the port the socket never sees one; a socket filter
that drops everything makes sure of that even between binding and DNAT. Where a relay serves it (relay.py), there is no
filter and the relay reads the socket.

SO_REUSEADDR is set for TCP only, as moby does: for UDP it would let two listeners share a port.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Sequence

from engine.aggregates.values.endpoints import PublishedPort
from engine.errors import Fault, PortError

_SO_ATTACH_FILTER = 26
_DROP_EVERYTHING = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K, 0 bytes kept


class Reservation:
    """The socket that keeps one published port, or None where the kernel can not listen (SCTP not built in)."""

    __slots__ = ("port", "socket")

    def __init__(self, port: PublishedPort, bound: socket.socket | None) -> None:
        self.port = port
        self.socket = bound

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()


def reserve(port: PublishedPort, container_address: str, *, relayed: bool) -> Reservation | None:
    """Bind one published port in the calling thread's namespace.

    None: the host has no such address family (`::` on a host without IPv6), which is no error, as in moby. Raises
    PortError with moby's words when the port is taken or the address is not the host's."""
    version = ipaddress.ip_address(port.host_ip).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        bound = _open(family, port.protocol)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            return Reservation(port, None)
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise
    try:
        if not relayed:
            _drop_everything(bound)
        bound.bind((port.host_ip, port.host_port))
        if port.protocol != "udp":
            bound.listen(4096 if relayed else 1)
    except OSError as error:
        bound.close()
        if port.host_ip == "::" and error.errno == errno.EADDRNOTAVAIL:
            return None
        raise _bind_failed(port, container_address, error) from error
    return Reservation(port, bound)


def release(reservations: Sequence[Reservation]) -> None:
    for reservation in reservations:
        reservation.close()


def _open(family: socket.AddressFamily, protocol: str) -> socket.socket:
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    number = socket.IPPROTO_SCTP if protocol == "sctp" else 0
    opened = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, number)
    if protocol == "tcp":
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return opened


def _drop_everything(opened: socket.socket) -> None:
    program = ctypes.create_string_buffer(_DROP_EVERYTHING, len(_DROP_EVERYTHING))
    with contextlib.suppress(OSError):  # a safety net: without it stray packets wait in a queue nobody reads
        opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 1, ctypes.addressof(program)))


def _bind_failed(port: PublishedPort, container_address: str, error: OSError) -> PortError:
    host = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
    inside = f"[{container_address}]" if ":" in container_address else container_address
    number = error.errno or 0
    reason = {
        errno.EADDRINUSE: "address already in use",
        errno.EADDRNOTAVAIL: "cannot assign requested address",
        errno.EACCES: "permission denied",
    }.get(number, os.strerror(number).lower())
    return PortError(
        "join",
        f"failed to bind host port for {host}:{port.host_port}:{inside}:{port.container_port}/{port.protocol}"
        f": {reason}",
        fault=Fault.SYSTEM,
        errno=number,
        retriable=number == errno.EADDRINUSE,
    )
