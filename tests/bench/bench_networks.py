"""What networks cost their users, of any engine that speaks Docker's API; several take turns, so that they share the
machine's moods. Each needs the image `busybox`. As root:

    python -m tests.bench.bench_networks [--ports N] unix:///var/run/docker.sock [unix:///other.sock ...]

Prints medians: create and remove of a network, connect and disconnect of a running container, a start with 1 and with
N (1,000) published ports and so the cost of one more, and how the embedded name server answers for a local name (median
latency, and answers per second with 16 questions under way).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import select
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dnslib

from engine.drivers.linux.network import namespaces
from tests.support.engine import _UnixConnection

ROUNDS = 15
QUESTIONS, UNDER_WAY = 2000, 16
ANSWER_S = 600.0
"""Engines with a process and several rules a port take minutes for a thousand."""
PAUSE_S = 0.15
"""After each measure: the kernel frees links under a lock of all namespaces that the next engine waits for."""
SLEEP = ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]


class Peer:
    """One engine."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._connection = _UnixConnection(host.removeprefix("unix://"))
        self._connection.timeout = ANSWER_S
        self.laps: dict[str, list[float]] = {}
        self.tag = secrets.token_hex(3)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        payload = None if body is None else json.dumps(body)
        self._connection.request(method, path, payload, {"Content-Type": "application/json"} if payload else {})
        answer = self._connection.getresponse()
        raw = answer.read()
        assert answer.status < 300, f"{self.host}: {method} {path}: {answer.status} {raw!r}"
        return json.loads(raw) if raw else None

    def lap(self, what: str, call: Callable[[], object]) -> None:
        begun = time.perf_counter()
        call()
        self.laps.setdefault(what, []).append((time.perf_counter() - begun) * 1e3)
        time.sleep(PAUSE_S)

    @contextlib.contextmanager
    def container(self, network: str, ports: int = 0, lap: str = "") -> Iterator[str]:
        exposed = {f"{10000 + n}/tcp": [{"HostPort": str(10000 + n)}] for n in range(ports)}
        host = {"NetworkMode": network, "PortBindings": exposed}
        body = {"Image": "busybox", "Cmd": SLEEP, "HostConfig": host, "ExposedPorts": {port: {} for port in exposed}}
        name = f"bench-{secrets.token_hex(4)}"
        self.ask("POST", f"/containers/create?name={name}", body)
        try:
            begun = time.perf_counter()
            self.ask("POST", f"/containers/{name}/start")
            if lap:
                self.laps.setdefault(lap, []).append((time.perf_counter() - begun) * 1e3)
            yield name
        finally:
            self.ask("DELETE", f"/containers/{name}?force=1")


def networks(peer: Peer, number: int) -> None:
    name = f"bench-{peer.tag}-{number}"
    peer.lap("network create", lambda: peer.ask("POST", "/networks/create", {"Name": name}))
    peer.lap("network remove", lambda: peer.ask("DELETE", f"/networks/{name}"))


def connections(peer: Peer, network: str, container: str) -> None:
    body = {"Container": container}
    peer.lap("connect", lambda: peer.ask("POST", f"/networks/{network}/connect", body))
    peer.lap("disconnect", lambda: peer.ask("POST", f"/networks/{network}/disconnect", body))


def names(peer: Peer, container: str) -> None:
    pid = peer.ask("GET", f"/containers/{container}/json")["State"]["Pid"]
    asking = threading.Thread(target=_ask_names, args=(peer, container, pid))
    asking.start()
    asking.join()


def _ask_names(peer: Peer, name: str, pid: int) -> None:
    """On a thread of its own, which stands in the container's network namespace."""
    there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    namespaces._set_namespace(there)
    os.close(there)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.11", 53))
        client.settimeout(5)
        for _ in range(200):
            packet = dnslib.DNSRecord.question(name).pack()
            begun = time.perf_counter()
            client.send(packet)
            assert dnslib.DNSRecord.parse(client.recv(1000)).rr, "the name is not known"
            peer.laps.setdefault("a name", []).append((time.perf_counter() - begun) * 1e3)
        packet = dnslib.DNSRecord.question(name).pack()
        begun = time.perf_counter()
        sent = answered = 0
        while answered < QUESTIONS:
            while sent < QUESTIONS and sent - answered < UNDER_WAY:
                client.send(packet)
                sent += 1
            assert select.select([client], [], [], 5)[0], "answers were lost"
            client.recv(1000)
            answered += 1
        peer.laps.setdefault("names per second", []).append(QUESTIONS / (time.perf_counter() - begun))


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--ports", type=int, default=1000)
    options.add_argument("hosts", nargs="+")
    asked = options.parse_args()
    measure(asked.hosts, asked.ports)


def measure(hosts: list[str], many: int) -> None:
    peers = [Peer(host) for host in hosts]
    for number in range(ROUNDS):
        for peer in peers:
            networks(peer, number)
    with contextlib.ExitStack() as stack:
        places = []
        for peer in peers:
            for kind in ("home", "away"):
                name = f"bench-{peer.tag}-{kind}"
                peer.ask("POST", "/networks/create", {"Name": name})
                stack.callback(peer.ask, "DELETE", f"/networks/{name}")
            container = stack.enter_context(peer.container(f"bench-{peer.tag}-home"))
            places.append((peer, f"bench-{peer.tag}-away", container))
        for _ in range(ROUNDS):
            for peer, away, container in places:
                connections(peer, away, container)
        for _ in range(3):
            for peer, _, container in places:
                names(peer, container)
    for ports, rounds in ((1, ROUNDS), (many, 3)):
        for _ in range(rounds):
            for peer in peers:
                with peer.container("bridge", ports, f"start, {ports} published"):
                    pass
    report(peers, many)


def report(peers: list[Peer], ports: int) -> None:
    first = {what: statistics.median(laps) for what, laps in peers[0].laps.items()}
    for peer in peers:
        print(peer.host)
        medians = {what: statistics.median(laps) for what, laps in peer.laps.items()}
        for what, median in medians.items():
            unit = "" if what.endswith("second") else " ms"
            print(f"  {what:24} {median:10.2f}{unit}   {median / first[what]:6.2f} times the first's")
        few, many = medians["start, 1 published"], medians[f"start, {ports} published"]
        print(f"  {'one more port':24} {(many - few) / (ports - 1):10.3f} ms")


if __name__ == "__main__":
    main()
