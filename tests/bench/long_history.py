"""A long history and what it costs: `python -m tests.bench.long_history FOLDER [events] [containers]`.

Writes a log of so many events into the folder (kept when it is there already), in which so many containers are left
stopped and all others have lived and gone; seals it as an engine would; then measures. Prints, asserts nothing. CPU
time beside wall time, because the machine may have other work.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import trio

from engine.aggregates import exec as x
from engine.aggregates import names, network
from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.container import commands as c
from engine.aggregates.decider import Cause, Command
from engine.aggregates.names import NameKind
from engine.aggregates.values.config import ContainerConfig, HostConfig
from engine.aggregates.values.endpoints import Endpoint, NetworkAttachment
from engine.aggregates.values.sealed import Sealed
from engine.application import Application
from engine.archive.keeper import Keeper, Policy
from engine.clock import SystemClock
from engine.codec import EventCodec
from engine.projections.containers import Containers
from engine.projections.events_feed import EventsFeed
from engine.projections.feed_store import FeedStore
from engine.projections.images import Images
from engine.projections.networks import Networks
from engine.projections.views import Views
from engine.projections.volumes import Volumes
from replay.reader import LogReader
from tests.support.counter import SteppingClock
from tests.support.story import BRIDGE, IMAGE, Teller, _image_and_networks

WRITERS = 64


class Lives:
    """Containers that come and go, all of their ids and secrets drawn from a seed."""

    def __init__(self, application: Application, clock: SteppingClock, seed: int) -> None:
        self._application, self._clock = application, clock
        self._chance = random.Random(seed)
        self._count = 0

    def _hex(self, count: int = 32) -> str:
        return self._chance.randbytes(count).hex()

    async def _tell(self, actor: str, correlation: str, *commands: Command) -> None:
        causation = "" if actor.startswith("uid") else f"@{self._application.position}"
        cause = Cause(actor=actor, correlation=correlation, causation=causation)
        await self._application.execute(*commands, cause=cause)

    async def live(self, *, remove: bool) -> None:
        """Sixteen events or so: create, start, an exec, exit, and, if wanted, remove."""
        self._count += 1
        me, name, now = self._hex(), f"job-{self._count}", self._clock.now_ns()
        user = f"uid=1000 gid=1000 pid={self._chance.randrange(1 << 22)} user=carol exe=/usr/bin/docker"
        tell, asked = self._tell, self._hex(16)
        config = ContainerConfig(image="busybox", cmd=("work", "--queue", "mails"), labels={"tier": "back"})
        env = Sealed(owner=f"container:{me}", box=self._chance.randbytes(70))
        await tell(
            user,
            asked,
            names.ReserveName(kind=NameKind.CONTAINER, name=name, owner=me),
            c.CreateContainer(
                container_id=me, at=now, name=name, image_id=IMAGE, layers=("sha256:" + "2" * 64,), config=config,
                env=env, host=HostConfig(network_mode="bridge", memory=64 << 20),
                networks=(NetworkAttachment(name="bridge", network_id=BRIDGE),), mounts=(), platform="linux",
                runtime="native",
            ),
        )  # fmt: skip
        asked, endpoint_id = self._hex(16), self._hex()
        await tell(
            user,
            asked,
            c.StartContainer(container_id=me, at=now),
            network.AllocateEndpoint(network_id=BRIDGE, endpoint_id=endpoint_id, container_id=me),
        )
        endpoint = Endpoint(
            endpoint_id=endpoint_id, network_id=BRIDGE, container_id=me, ipv4_address="172.17.0.2",
            ipv4_prefix_length=16,
        )  # fmt: skip
        started = c.ReportStarted(
            container_id=me, run=1, at=now, pid=self._chance.randrange(1 << 22), endpoints=(endpoint,), ports=()
        )
        await tell("reactor:lifecycle", asked, started)
        await self._exec(user, me, now)
        await tell(
            "reactor:lifecycle",
            self._hex(16),
            c.ReportExited(container_id=me, run=1, at=now, exit_code=0, oom_killed=False),
            network.ReleaseEndpoint(network_id=BRIDGE, container_id=me),
        )
        if remove:
            asked = self._hex(16)
            await tell(user, asked, c.RemoveContainer(container_id=me, at=now, force=False, volumes=False))
            released = names.ReleaseName(kind=NameKind.CONTAINER, name=name, owner=me)
            await tell("reactor:lifecycle", asked, c.ReportRemoved(container_id=me, at=now), released)

    async def _exec(self, user: str, me: str, now: int) -> None:
        asked, exec_id = self._hex(16), self._hex()
        secret = Sealed(owner=f"container:{me}", box=self._chance.randbytes(90))
        created = x.CreateExec(
            exec_id=exec_id, at=now, container_id=me, spec=x.ExecSpec(), secret=secret, entrypoint="sh"
        )
        await self._tell(user, asked, created, x.StartExec(exec_id=exec_id, at=now, detach=False, tty=False))
        await self._tell("reactor:exec", asked, x.ReportExecStarted(exec_id=exec_id, at=now, pid=99))
        ended = x.ReportExecExited(exec_id=exec_id, at=now, exit_code=0)
        await self._tell("reactor:exec", asked, ended, x.RemoveExec(exec_id=exec_id))


async def build(folder: Path, events: int, containers: int) -> None:
    clock = SteppingClock()
    views = [Containers(), Images(), Networks(), Volumes()]
    async with Application(folder, deciders=ALL_DECIDERS, clock=clock, projections=views).running() as application:
        await _image_and_networks(Teller(application, clock))
        lives = Lives(application, clock, 1)
        began, cpu, before = time.perf_counter(), time.process_time(), application.position
        left = containers

        async def write() -> None:
            nonlocal left
            while application.position < events:
                # Those that stay are made all along, so that every part of the log has some.
                stays = left > 0 and application.position >= (containers - left) * events / containers
                left -= stays
                await lives.live(remove=not stays)

        async with trio.open_nursery() as nursery:
            for _ in range(WRITERS):
                nursery.start_soon(write)
        written = application.position - before
        show(f"{WRITERS} concurrent commands", written / (time.perf_counter() - began), "events/s acknowledged")
        show("  CPU an event", (time.process_time() - cpu) / written * 1e6, "us")
        keeper = Keeper(application, folder / "events.db", Policy(low_days=0), clock)
        began = time.perf_counter()
        await keeper.look()
        segments = application.archive.segments
        sealed = sum(segment.events for segment in segments)
        show("sealing", sealed / (time.perf_counter() - began), "events/s")


def show(what: str, amount: float, unit: str) -> None:
    print(f"{what:<44} {amount:>12,.1f} {unit}", flush=True)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds, children included."""
    began, before = time.perf_counter(), os.times()
    call()
    after = os.times()
    return time.perf_counter() - began, sum(after[:4]) - sum(before[:4])


def asked(folder: Path, *question: str) -> None:
    command = [sys.executable, "-m", "replay", "--log", str(folder), *question]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


async def opened(folder: Path, deciders: Any = ALL_DECIDERS) -> int:
    views = [Containers(), Images(), Networks(), Volumes()]
    application = Application(folder, deciders=deciders, clock=SystemClock(), projections=views)
    async with application.running():
        return len(views[0])


async def opened_whole(folder: Path) -> None:
    """With all that an engine makes of its log, the messages of `/events` too."""
    feed = FeedStore(folder / "views-events.db")
    await trio.to_thread.run_sync(feed.open)
    views = Views.empty(EventsFeed(feed))
    try:
        async with Application(
            folder, deciders=ALL_DECIDERS, clock=SystemClock(), projections=views.all()
        ).running() as application:
            restored = set(application.restored.values())
            assert restored == {0}, f"something was there: {restored}"
    finally:
        feed.close()


@contextlib.contextmanager
def events_alone(folder: Path) -> Iterator[None]:
    """Neither views nor states that were sealed with the events."""
    for path in folder.glob("views*.db*"):
        path.unlink()
    states = list((folder / "archive").glob("*.states"))
    aside = folder / "states"
    aside.mkdir(exist_ok=True)
    for path in states:
        path.rename(aside / path.name)
    try:
        yield
    finally:
        for path in states:
            (aside / path.name).rename(path)


def newest(folder: Path) -> int:
    codec = EventCodec(event for decider in ALL_DECIDERS for event in decider.events)
    with LogReader(folder / "events.db", codec) as reader:
        return reader.head


def measure(folder: Path) -> None:
    archive = list((folder / "archive").glob("*.segment"))
    states = sum(path.stat().st_size for path in (folder / "archive").glob("*.states"))
    total = sum(path.stat().st_size for path in archive)
    sealed = max(int(path.name.split("-")[1]) for path in archive)
    show("sealed events", sealed, f"in {len(archive)} segments")
    show("sealed history", total / sealed, "bytes an event")
    show("  with state snapshots", (total + states) / sealed, "bytes an event")
    wall, cpu = timed(lambda: trio.run(opened, folder))
    show("open with views (log, projections)", wall * 1e3, f"ms, {cpu * 1e3:.0f} CPU")
    head = newest(folder)
    for position in (head, sealed, sealed // 2, sealed // 3, 5000):
        wall, cpu = timed(partial(asked, folder, "at", f"@{position}", "ps", "-a"))
        show(f"replay at @{position} ps -a", wall * 1e3, f"ms, {cpu * 1e3:.0f} CPU")
    wall, cpu = timed(partial(asked, folder, "verify"))
    show("replay verify", head / wall, f"events/s, {head / cpu:,.0f} by CPU")
    for what, rebuild in (("rebuild but for /events", opened), ("rebuild of everything", opened_whole)):
        with events_alone(folder):
            wall, cpu = timed(partial(trio.run, rebuild, folder))
        show(what, head / wall, f"events/s, {head / cpu:,.0f} by CPU")


def main() -> None:
    folder = Path(sys.argv[1])
    events, containers = (int(word) for word in (*sys.argv[2:], *("1000000", "1000")[len(sys.argv) - 2 :]))
    if not (folder / "events.db").exists():
        folder.mkdir(parents=True, exist_ok=True)
        trio.run(build, folder, events, containers)
    measure(folder)


if __name__ == "__main__":
    main()
