"""What `docker stats` shows: every container somebody watches is read once a second, whoever many watch it (CTR-26).

Owns: the beat, and who watches. The first watcher of all gets a beat at once; with nobody left there is none.
A watcher is a cursor at the newest reading: one that is slow skips beats and delays nobody.
Source: moby daemon/stats/collector.go, daemon/stats.go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

import msgspec
import trio

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.values.ids import ContainerID
from engine.api.shapes.stats import Reading, stats_document
from engine.drivers.ports.host import Host
from engine.drivers.ports.runtime import Meter
from engine.projections.containers import Containers

INTERVAL_S = 1.0


class Sampling:
    def __init__(self, meter: Meter, host: Host, containers: Containers) -> None:
        self._meter, self._host, self._containers = meter, host, containers
        self._watched: Counter[ContainerID] = Counter()
        self._readings: Mapping[str, Reading] = {}
        self._rendered: dict[tuple[ContainerID, int], bytes] = {}
        self._beat = trio.Event()
        self._anybody = trio.Event()
        self._encode = msgspec.json.Encoder().encode

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._anybody.wait()
            began = trio.current_time()
            self._readings = await self._read(self._watched, again=True)
            self._rendered = {}
            beat, self._beat = self._beat, trio.Event()
            beat.set()
            if not self._watched:
                self._anybody = trio.Event()
            await trio.sleep(max(0.0, INTERVAL_S - (trio.current_time() - began)))

    async def _read(self, wanted: Mapping[ContainerID, int], *, again: bool = False) -> Mapping[str, Reading]:
        states = (self._containers.get(container_id) for container_id in wanted)
        running = [state for state in states if state is not None and _runs(state)]
        pids: dict[str, int] = {state.container_id: _pid(state) for state in running}
        system_ns, cpus = self._host.cpu_usage()
        samples = await self._meter.samples(pids, again=again)
        return {
            container_id: Reading(sample=sample, system_ns=system_ns, cpus=cpus)
            for container_id, sample in samples.items()
        }

    async def once(self, state: ContainerState, *, one_shot: bool) -> bytes:
        """One document: of the usage at two beats, or (one_shot) now. It is empty when the container does not run."""
        if not _runs(state):
            return self._document(state, None, None)
        if one_shot:
            readings = await self._read({state.container_id: 1})
            return self._document(state, readings.get(state.container_id), None)
        before: Reading | None = None
        with self._watched_by_one_more(state.container_id):
            while True:
                now, reading = await self._next(state.container_id)
                if now is None or before is not None or reading is None:
                    return self._document(now or state, reading, before)
                before = reading

    async def stream(self, state: ContainerState) -> AsyncIterator[bytes]:
        """A document a beat until the container is removed, empty ones while it does not run. One that does not run to
        begin with gets a single empty one."""
        if not _runs(state):
            yield self._document(state, None, None)
            return
        before: Reading | None = None
        with self._watched_by_one_more(state.container_id):
            while True:
                now, reading = await self._next(state.container_id)
                if now is None:
                    return
                yield self._document(now, reading, before)
                before = reading

    @contextmanager
    def _watched_by_one_more(self, container_id: ContainerID) -> Iterator[None]:
        self._watched[container_id] += 1
        self._anybody.set()
        try:
            yield
        finally:
            self._watched[container_id] -= 1
            if not self._watched[container_id]:
                del self._watched[container_id]

    async def _next(self, container_id: ContainerID) -> tuple[ContainerState | None, Reading | None]:
        """The container and its reading at the next beat. None: it is removed, or does not run."""
        await self._beat.wait()
        state = self._containers.get(container_id)
        if state is None or state.status is Status.REMOVED:
            return None, None
        return state, self._readings.get(container_id)

    def _document(self, state: ContainerState, reading: Reading | None, before: Reading | None) -> bytes:
        """As JSON. Watchers of one container mostly want the same document, made once a beat."""
        if reading is None:
            return self._encode(stats_document(state, None, None)) + b"\n"
        key = (state.container_id, before.sample.read_at_ns if before is not None else 0)
        if reading is not self._readings.get(state.container_id):
            return self._encode(stats_document(state, reading, before)) + b"\n"
        if key not in self._rendered:
            self._rendered[key] = self._encode(stats_document(state, reading, before)) + b"\n"
        return self._rendered[key]


def _runs(state: ContainerState) -> bool:
    return state.alive and state.status is not Status.RESTARTING


def _pid(state: ContainerState) -> int:
    """Whose view of the network counts: nobody's for the host's own."""
    return 0 if state.host.network_mode == "host" else state.pid
