"""What the record says of each run of each container, for a history in which it may be asked for again."""

from __future__ import annotations

from collections.abc import Iterable

from engine.aggregates.container import events as e
from engine.aggregates.decider import Recorded
from engine.aggregates.values.endpoints import Endpoint
from engine.transactions import EphemeralRange

Run = tuple[str, int]
"""Container and run."""


class Record:
    """starts: how a run began. ends: how it ended. asked: the ends that somebody asked for."""

    def __init__(self, history: Iterable[Recorded]) -> None:
        self.starts: dict[Run, e.ContainerStarted | e.ContainerStartFailed] = {}
        self.ends: dict[Run, e.ContainerExited] = {}
        self.asked: set[Run] = set()
        self._endpoints: dict[tuple[Run, str], Endpoint] = {}
        runs: dict[str, int] = {}
        ending: set[str] = set()
        for recorded in history:
            container = recorded.key
            match recorded.event:
                case e.ContainerStartRequested() as event:
                    runs[container] = event.run
                    ending.discard(container)
                case e.ContainerStarted() | e.ContainerStartFailed() as event:
                    self.starts[container, event.run] = event
                    for endpoint in getattr(event, "endpoints", ()):
                        self._endpoints[(container, event.run), endpoint.network_id] = endpoint
                case e.ContainerConnected(endpoint=Endpoint() as endpoint):
                    self._endpoints[(container, runs.get(container, 0)), endpoint.network_id] = endpoint
                case e.ContainerStopRequested() | e.ContainerRemoveRequested() | e.ContainerKillRequested(ends=True):
                    ending.add(container)
                case e.ContainerExited() as event:
                    self.ends[container, event.run] = event
                    if container in ending:
                        self.asked.add((container, event.run))
                case _:
                    pass

    def endpoint_id(self, run: Run, network_id: str) -> str:
        """Of a run's place on a network; "" for one that was never there."""
        endpoint = self._endpoints.get((run, network_id))
        return endpoint.endpoint_id if endpoint is not None else ""

    def ports(self, run: Run) -> EphemeralRange:
        """Where a run's host ports were, for those that it may choose itself."""
        started = self.starts.get(run)
        ports = [port.host_port for port in getattr(started, "ports", ())]
        return EphemeralRange(first=min(ports), last=max(ports)) if ports else EphemeralRange()
