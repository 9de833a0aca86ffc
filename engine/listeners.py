"""Listening sockets: unix, tcp, and those systemd hands over.

Owns opening, ownership and mode, and tidying up. Source: moby daemon/listeners (socket mode 0660, group `docker`; an
unknown group is only worth a warning), sd_listen_fds(3).
"""

from __future__ import annotations

import contextlib
import errno
import grp
import logging
import os
import socket
import stat
from collections.abc import Mapping, Sequence

from engine.config import ConfigError, split_host

log = logging.getLogger(__name__)

BACKLOG = 1024
SOCKET_MODE = 0o660
SYSTEMD_FIRST_FD = 3


def open_listeners(
    hosts: Sequence[str], *, group: str, environment: Mapping[str, str] | None = None
) -> tuple[socket.socket, ...]:
    """Open every host; all or none. Raises ConfigError with the host's name when one can not be listened on.

    environment: where systemd's LISTEN_FDS is looked up; the process's own by default."""
    opened: list[socket.socket] = []
    try:
        for host in hosts:
            opened.extend(_open(host, group, os.environ if environment is None else environment))
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    return tuple(opened)


def close_listeners(sockets: Sequence[socket.socket]) -> None:
    """Close them, and remove the files of unix sockets, unless somebody else has put another there meanwhile."""
    for sock in sockets:
        with contextlib.suppress(OSError):
            _forget_path(sock)
        sock.close()


def _open(host: str, group: str, environment: Mapping[str, str]) -> list[socket.socket]:
    scheme, address = split_host(host)
    try:
        if scheme == "unix":
            return [_open_unix(address, group)]
        if scheme == "tcp":
            return [_open_tcp(address)]
        return _inherited(environment)
    except OSError as error:
        raise ConfigError(
            f"failed to load listeners: can't create {scheme} socket {address}: {error.strerror}"
        ) from error


def _open_unix(path: str, group: str) -> socket.socket:
    if _is_served(path):
        raise OSError(errno.EADDRINUSE, "another process is listening there")
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)  # left over by a process that died
    os.makedirs(os.path.dirname(path), exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The mode is set before anybody could connect: listen comes last.
        sock.bind(path)
        os.chown(path, 0 if os.geteuid() == 0 else -1, _group_id(group))
        os.chmod(path, SOCKET_MODE)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_tcp(address: str) -> socket.socket:
    name, _, port = address.rpartition(":")
    host = name.strip("[]")
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, int(port)))
        sock.listen(BACKLOG)
    except socket.gaierror as error:
        sock.close()
        raise OSError(errno.EINVAL, f"unknown host {host}") from error
    except BaseException:
        sock.close()
        raise
    log.warning("[DEPRECATION NOTICE]: API is accessible on http://%s without encryption", address)
    return sock


def _inherited(environment: Mapping[str, str]) -> list[socket.socket]:
    """The sockets systemd opened for this very process (`fd://`)."""
    if environment.get("LISTEN_PID") != str(os.getpid()) or not environment.get("LISTEN_FDS", "").isdecimal():
        raise ConfigError(
            "failed to load listeners: no sockets found via socket activation: "
            "make sure the service was started by systemd"
        )
    count = int(environment["LISTEN_FDS"])
    sockets = [socket.socket(fileno=fd) for fd in range(SYSTEMD_FIRST_FD, SYSTEMD_FIRST_FD + count)]
    for sock in sockets:
        os.set_inheritable(sock.fileno(), False)
    return sockets


def _group_id(group: str) -> int:
    """A name or a number; -1 (unchanged) with a warning for a name nobody knows."""
    if group.isdecimal():
        return int(group)
    if not group or os.geteuid() != 0:
        return -1
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        log.warning("could not change the group of the socket to %s: group %s not found", group, group)
        return -1


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _forget_path(sock: socket.socket) -> None:
    if sock.family != socket.AF_UNIX:
        return
    path = sock.getsockname()
    if isinstance(path, str) and path and not _is_served_by_other(path, sock):
        os.unlink(path)


def _is_served_by_other(path: str, sock: socket.socket) -> bool:
    """A socket's inode and its file's differ, so ownership is told by asking: stop listening, then try to connect."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    return _is_served(path)
