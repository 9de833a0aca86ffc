"""A proxy that harms what passes, by a seed: between a client and a server on loopback, byte streams both ways.

Each connection draws its faults: the way to the server is cut or delayed, the way back cut, delayed, ended early as if
complete, or a byte of it changed. The same seed draws the same faults for the same order of connections.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator

_CHUNK = 16384
_DELAY_S_MAX = 0.02
_REACH = 400_000
"""Faults strike within so many bytes of a connection."""


class Fault:
    """One connection's: what, and at which byte."""

    def __init__(self, chance: random.Random, rate: float) -> None:
        struck = chance.random() < rate
        self.kind = chance.choice(("reset", "close", "delay", "corrupt", "refuse")) if struck else ""
        # Small answers are as likely to be hit as large ones.
        self.at = int(_REACH ** chance.random())
        self.delay_s = chance.uniform(0, _DELAY_S_MAX)


class FaultyProxy:
    """address: `127.0.0.1:<port>`. rate: share of connections that are harmed; 0 heals."""

    def __init__(self, target: str, seed: str, rate: float) -> None:
        self.rate = rate
        self.harmed: list[str] = []
        self._target = target.rpartition(":")[::2]
        self._chance = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End every connection."""
        for each in list(self._open):
            _end(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            fault = Fault(self._chance, self.rate)
            if fault.kind:
                self.harmed.append(fault.kind)
            threading.Thread(target=self._serve, args=(client, fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: Fault) -> None:
        if fault.kind == "refuse":
            _reset(client)
            return
        host, port = self._target
        with contextlib.suppress(OSError):
            server = socket.create_connection((host, int(port)))
            self._open |= {client, server}
            there = threading.Thread(target=_carry, args=(client, server, None), daemon=True)
            there.start()
            _carry(server, client, fault)
            _end(server)
            there.join()
            self._open -= {client, server}
        _end(client)


def _carry(source: socket.socket, sink: socket.socket, fault: Fault | None) -> None:
    passed = 0
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            if fault is not None and passed <= fault.at < passed + len(data):
                at = fault.at - passed
                match fault.kind:
                    case "reset":
                        sink.sendall(data[:at])
                        _reset(sink)
                        return
                    case "close":
                        sink.sendall(data[:at])
                        break
                    case "corrupt":
                        data = data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]
                    case "delay":
                        time.sleep(fault.delay_s)
            sink.sendall(data)
            passed += len(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _end(sock)


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


@contextlib.contextmanager
def faulty_proxy(target: str, seed: str, rate: float) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(target, seed, rate)
    try:
        yield proxy
    finally:
        proxy.close()
