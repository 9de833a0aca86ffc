"""Many who follow `/events` while much happens: `python -m tests.bench.bench_events [events/s] [seconds] [number]`.

The real log with every view and the API on a unix socket, in this process; a process of its own reads. Half of the
events are told in bursts, as many writers at once give them. One subscriber more reads nothing until the end. Told is
whether everybody got every message in order, how far behind they were, the CPU time, and what the process grew by.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import selectors
import socket
import sys
import tempfile
import time
from pathlib import Path

import trio

from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.container import commands as c
from engine.aggregates.decider import Cause
from engine.aggregates.values.config import ContainerConfig, HostConfig
from engine.api.routes import events
from engine.application import Application
from engine.clock import SystemClock
from engine.projections.containers import Containers
from engine.projections.events_feed import EventsFeed
from engine.projections.execs import Execs
from engine.projections.feed_store import FeedStore
from engine.projections.images import Images
from engine.projections.networks import Networks
from engine.projections.views import Views
from engine.projections.volumes import Volumes
from tests.api.harness import context, served
from tests.support.story import IMAGE

RATE, SECONDS, SUBSCRIBERS = 5000, 20, 10
TICKS = 100
WEB = "c" * 64
CAUSE = Cause(actor="uid=0 gid=0 pid=412 user=root exe=/usr/bin/docker", correlation="bench")
NUMBER = re.compile(rb'"number":"(\d+)"')


async def main(rate: int, seconds: int, subscribers: int) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        feed = stack.enter_context(contextlib.closing(FeedStore(Path(folder) / "views-events.db")))
        feed.open()
        views = Views(
            containers=Containers(), images=Images(), networks=Networks(), volumes=Volumes(), execs=Execs(),
            events=EventsFeed(feed),
        )  # fmt: skip
        application = Application(Path(folder), deciders=ALL_DECIDERS, clock=SystemClock(), projections=views.all())
        async with application.running(), trio.open_nursery() as nursery:
            nursery.start_soon(views.events.keep)
            await begin(application)
            register = lambda app: events.register(app, context(views=views))  # noqa: E731 - as the tests do
            async with served(register, views=views) as engine:
                results = read_in_child(engine.path, subscribers, rate * seconds)
                await trio.sleep(1)
                sleeper = await trio.to_thread.run_sync(asked, engine.path)
                before, cpu, began = memory_kib(), time.process_time(), time.monotonic()
                await tell(application, rate, seconds)
                told, cpu = time.monotonic() - began, time.process_time() - cpu
                found = json.loads(await trio.to_thread.run_sync(results))
                show("told", rate * seconds / told, "events/s")
                show("  CPU an event, all subscribers", cpu / (rate * seconds) * 1e6, "us")
                for name in ("complete", "lost"):
                    show(f"subscribers, {name}", found[name], f"of {subscribers}")
                show("last message behind the last event", (found["at"] - began - told) * 1e3, "ms")
                late = await trio.to_thread.run_sync(numbers, sleeper, rate * seconds)
                words = "complete" if complete_order(late, rate * seconds) else "LOST"
                show("one who slept, messages", len(late), words)
                show("memory grew by", (memory_kib() - before) / 1024, "MiB")
            nursery.cancel_scope.cancel()


async def begin(application: Application) -> None:
    await application.execute(
        c.CreateContainer(
            container_id=WEB, at=1, name="web", image_id=IMAGE, layers=(), config=ContainerConfig(image="busybox"),
            env=None, host=HostConfig(network_mode="none"), networks=(), mounts=(), platform="linux", runtime="native",
        ),
        cause=CAUSE,
    )  # fmt: skip


async def tell(application: Application, rate: int, seconds: int) -> None:
    """So many events a second, in ticks; every other tick by many calls at once."""
    began, number, each = trio.current_time(), 0, rate // TICKS
    for tick in range(TICKS * seconds):
        await trio.sleep_until(began + tick / TICKS)
        notes = [
            c.NoteContainer(container_id=WEB, action="top", attributes={"number": str(number + one)})
            for one in range(each)
        ]
        number += each
        async with trio.open_nursery() as nursery:
            for note in notes if tick % 2 else ():
                nursery.start_soon(lambda note=note: application.execute(note, cause=CAUSE))
            if not tick % 2:
                await application.execute(*notes, cause=CAUSE)


def asked(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.sendall(b"GET /v1.53/events HTTP/1.1\r\nHost: docker\r\n\r\n")
    sock.recv(1 << 16)  # the head: what happens from now on is told
    return sock


def read_in_child(path: str, subscribers: int, expected: int):  # type: ignore[no-untyped-def]  # a callable's name is enough
    """Follow in a child; called, the result waits for its findings."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, json.dumps(follow(path, subscribers, expected)).encode())
        os._exit(0)
    os.close(writing)
    return lambda: os.read(reading, 1 << 16)


def follow(path: str, subscribers: int, expected: int) -> dict[str, float]:
    selector = selectors.DefaultSelector()
    got, rests = {}, {}
    for _ in range(subscribers):
        sock = asked(path)
        got[sock], rests[sock] = [], b""
        selector.register(sock, selectors.EVENT_READ)
    while any(len(each) < expected for each in got.values()):
        ready = selector.select(10)
        if not ready:
            break
        for key, _ in ready:
            sock = key.fileobj
            data = rests[sock] + sock.recv(1 << 20)
            end = data.rfind(b"\n") + 1
            got[sock] += [int(number) for number in NUMBER.findall(data, 0, end)]
            rests[sock] = data[end:]
    complete = sum(complete_order(each, expected) for each in got.values())
    return {"complete": complete, "lost": subscribers - complete, "at": time.monotonic()}


def complete_order(got: list[int], expected: int) -> bool:
    """Every number once. Calls of the same moment are decided in no order."""
    return sorted(got) == list(range(expected))


def numbers(sock: socket.socket, expected: int) -> list[int]:
    """What a subscriber gets that begins to read now."""
    data = bytearray()
    sock.settimeout(10)
    with contextlib.suppress(TimeoutError):
        while data.count(b'"number"') < expected:
            for _ in range(64):
                data += sock.recv(1 << 20)
                if b'"number":"%d"' % (expected - 1) in data[-4096:]:
                    return [int(number) for number in NUMBER.findall(data)]
    return [int(number) for number in NUMBER.findall(data)]


def memory_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def show(what: str, amount: float, unit: str) -> None:
    print(f"{what:<44} {amount:>12,.1f} {unit}", flush=True)


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    trio.run(main, *(given + [RATE, SECONDS, SUBSCRIBERS][len(given) :]))
