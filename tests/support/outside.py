"""A neighbour of an engine's host: a network namespace one cable away, and a way to stand in any namespace."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

from engine.drivers.linux.network import namespaces
from tests.support.engine import Engine
from tests.support.images import BUSYBOX

HOST_ADDRESS, OUTSIDE_ADDRESS = "198.51.100.1", "198.51.100.2"


@contextlib.contextmanager
def standing_in(namespace: str) -> Iterator[None]:
    """The calling thread, and what it starts, are on a named network for the length of the block."""
    home = namespaces.open_current()
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces._set_namespace(there)
        yield
    finally:
        namespaces._set_namespace(home)
        os.close(home)
        os.close(there)


class Neighbour:
    """address: the engine's host as the neighbour sees it."""

    address = HOST_ADDRESS

    def __init__(self, name: str) -> None:
        self.name = name

    def fetch(self, url: str) -> str:
        """What busybox's wget reads there; "" when nobody answers."""
        return _fetch(self.name, url)

    def run(self, *command: str) -> int:
        """A command's exit status there."""
        inside = ["nsenter", f"--net=/run/netns/{self.name}", *command]
        return subprocess.run(inside, capture_output=True, timeout=20, check=False).returncode

    @contextlib.contextmanager
    def connected(self, address: str, port: int) -> Iterator[socket.socket]:
        """A TCP connection from there, as soon as somebody answers it."""
        with standing_in(self.name):
            deadline = time.monotonic() + 10
            while True:
                try:
                    connection = socket.create_connection((address, port), timeout=5)
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
        with connection:
            yield connection

    @contextlib.contextmanager
    def listening(self, address: str, port: int) -> Iterator[Callable[[], list[str]]]:
        """A TCP listener there; calling what it yields tells the addresses of the clients that have come."""
        with standing_in(self.name):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = socket.create_server((address, port), family=family, backlog=16)
        listener.settimeout(5)

        def clients() -> list[str]:
            connection, client = listener.accept()
            connection.close()
            return [client[0]]

        with listener:
            yield clients


@contextlib.contextmanager
def neighbour(engine: Engine) -> Iterator[Neighbour]:
    name = f"{engine.name}-out"
    _ip("netns", "add", name)
    try:
        _ip("-n", engine.name, "link", "add", "cable0", "type", "veth", "peer", "name", "cable1", "netns", name)
        for namespace, link, address in ((engine.name, "cable0", HOST_ADDRESS), (name, "cable1", OUTSIDE_ADDRESS)):
            _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", link)
            _ip("-n", namespace, "link", "set", link, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield Neighbour(name)
    finally:
        _ip("-n", engine.name, "link", "delete", "cable0", check=False)
        _ip("netns", "delete", name, check=False)


def fetch_locally(engine: Engine, url: str) -> str:
    """What a client on the engine's own host reads."""
    return _fetch(engine.name, url)


def _fetch(namespace: str, url: str) -> str:
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{namespace}", BUSYBOX, "timeout", "5", BUSYBOX, "wget", "-q", "-O", "-", url],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    return done.stdout if done.returncode == 0 else ""


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True, timeout=20)
