"""The first connection to a log server, made before the container starts: one that can not be made fails the start.

Later ones are the writer's own (runtime/supervisor/logs/dial.py). Complaints are Go's `net.Dial`'s.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import trio

from engine.drivers.linux.runtime.supervisor.logs.dial import KINDS
from engine.drivers.linux.runtime.supervisor.logs.secure import context

DEADLINE_S = 10.0


class NoLogServer(Exception):  # noqa: N818 - the start's complaint, for the runtime to translate
    """The server can not be reached; the text is moby's."""


async def open_door(plan: dict[str, Any]) -> int:
    """A connected socket for the writer; -1 where there is no server, or where it is not waited for. Raises
    NoLogServer."""
    server = plan.get("server")
    if server is None or not plan.get("awaited", True):
        return -1
    try:
        with trio.fail_after(DEADLINE_S):
            if server["paths"]:
                return await _local(server["paths"])
            if server["tls"]:
                await _try_handshake(server)
            return (await _remote(server)).detach()
    except (OSError, trio.TooSlowError, trio.BrokenResourceError) as error:
        place = f"{server['host']}:{server['port']}"
        words = plan.get("absent") or _complaint(error, server, place)
        if plan["driver"] == "gelf":
            words = f"gelf: cannot connect to GELF endpoint: {place} {words}"
        elif plan["driver"] == "syslog" and len(server["paths"]) > 1:
            words = "Unix syslog delivery error"
        raise NoLogServer(words) from error


def _complaint(error: BaseException, server: dict[str, Any], place: str) -> str:
    network = {"tls": "tcp"}.get(server["network"], server["network"])
    if server["paths"]:
        network, place = server["paths"][0]
    if isinstance(error, trio.TooSlowError):
        return f"dial {network} {place}: i/o timeout"
    if isinstance(error, socket.gaierror):
        return f"dial {network}: lookup {server['host']}: no such host"
    if isinstance(error, OSError) and error.errno and error.errno in errno.errorcode:
        return f"dial {network} {place}: connect: {os.strerror(error.errno).lower()}"
    reason = getattr(error.__cause__, "verify_message", "")
    return f"tls: failed to verify certificate: x509: {reason}" if reason else f"tls: {error.__cause__ or error}"


async def _local(paths: list[tuple[str, str]]) -> int:
    problem = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for network, path in paths:
        sock = trio.socket.socket(socket.AF_UNIX, KINDS[network])
        try:
            await sock.connect(path)
        except OSError as error:
            problem = error
            sock.close()
            continue
        except BaseException:
            sock.close()
            raise
        return sock.detach()
    raise problem


async def _remote(server: dict[str, Any]) -> trio.socket.SocketType:
    kind = KINDS.get(server["network"], socket.SOCK_STREAM)
    problem = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    for family, _, _, _, address in await trio.socket.getaddrinfo(server["host"] or None, server["port"], type=kind):
        sock = trio.socket.socket(family, kind)
        try:
            await sock.connect(address)
        except OSError as error:
            problem = error
            sock.close()
            continue
        except BaseException:
            sock.close()
            raise
        return sock
    raise problem


async def _try_handshake(server: dict[str, Any]) -> None:
    """On a connection of its own: a TLS session can not be handed to another process."""
    prepared = context(server["tls"])
    sock = await _remote(server)
    stream = trio.SSLStream(trio.SocketStream(sock), prepared, server_hostname=server["tls"]["name"])
    async with stream:
        await stream.do_handshake()
