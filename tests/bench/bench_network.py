"""What the network driver costs a container start. Run as root: `python -m tests.bench.bench_network`."""

from __future__ import annotations

import os
import secrets
import socket
import statistics
import time
from collections.abc import Awaitable, Callable

import dnslib
import trio

from engine.aggregates.values.endpoints import PublishedPort
from engine.aggregates.values.ids import ContainerID
from engine.drivers.ports.network import NameRecord, NetworkSpec
from tests.support.netns import World, open_world, own_network_namespace

ROUNDS = 40


class Stopwatch:
    def __init__(self) -> None:
        self._laps: dict[str, list[float]] = {}

    async def lap(self, name: str, call: Callable[[], Awaitable[object]]) -> object:
        begun = time.perf_counter()
        result = await call()
        self._laps.setdefault(name, []).append((time.perf_counter() - begun) * 1e3)
        return result

    def report(self) -> None:
        for name, laps in self._laps.items():
            deciles = statistics.quantiles(laps, n=10)
            print(f"{name:32} median {statistics.median(laps):6.2f} ms   p90 {deciles[8]:6.2f} ms")


async def life(world: World, spec: NetworkSpec, watch: Stopwatch, number: int, ports: int) -> None:
    sandboxes, resolver = world.networking.sandboxes, world.networking.resolver
    container_id = ContainerID(secrets.token_hex(32))
    netns_fd = await watch.lap("open", lambda: sandboxes.open(container_id, {}))
    assert isinstance(netns_fd, int)
    wanted = [PublishedPort(host_ip="0.0.0.0", host_port=8000 + number, container_port=80)] * ports
    join = world.plan_join(spec, container_id, 2 + number, *wanted)
    await watch.lap(f"join, {ports} published", lambda: sandboxes.join(container_id, netns_fd, [join]))
    await watch.lap("serve", lambda: resolver.serve(container_id, netns_fd, (spec.network_id,), []))
    opened = await world.inside(netns_fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    opened.setblocking(False)
    with trio.socket.from_stdlib_socket(opened) as client:
        await client.connect(("127.0.0.11", 53))
        packet = dnslib.DNSRecord.question("web").pack()
        for _ in range(5):
            await client.send(packet)
            await watch.lap("a name answered", lambda: client.recv(1000))
    os.close(netns_fd)
    await resolver.stop_serving(container_id)
    await watch.lap(f"leave, {ports} published", lambda: sandboxes.leave(container_id, [join], sandbox_gone=True))
    await trio.sleep(0.05)  # starts that follow each other at once are measured by the pool's refilling, not by this


async def main() -> None:
    watch = Stopwatch()
    async with open_world() as world:
        spec = await world.network(18)
        record = NameRecord(name="web", ipv4_address="172.18.0.5", container_name="web")
        world.networking.resolver.publish(spec.network_id, [record])
        for ports in (0, 1):
            for number in range(ROUNDS):
                await life(world, spec, watch, number, ports)
        for octet in range(30, 50):
            await watch.lap("create a network", lambda octet=octet: world.network(octet))  # type: ignore[misc]  # a bound default
    watch.report()


if __name__ == "__main__":
    with own_network_namespace():
        trio.run(main)
