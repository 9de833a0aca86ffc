"""Updates of running containers: the kernel takes new limits, or refuses, and the outcome is told (CTR-28)."""

from __future__ import annotations

from engine.aggregates.container import commands as c
from engine.aggregates.container.resource_rules import UPDATABLE
from engine.aggregates.container.state import with_resources
from engine.aggregates.decider import Command
from engine.aggregates.values.config import Resources
from engine.drivers.ports.runtime import Runtime
from engine.errors import PortError
from engine.oci.resources import limits
from engine.reactors.base import Hands
from engine.reactors.lifecycle import plan as effects

NAME = "lifecycle"


class Updates:
    def __init__(self, hands: Hands, runtime: Runtime) -> None:
        self._hands = hands
        self._runtime = runtime

    async def update(self, effect: effects.Update, correlation: str) -> None:
        """All limits that an update may change, old and new: memory and swap only make sense together."""
        state = self._hands.container(effect.container_id)
        if state.updating is None or state.updates != effect.number:
            return
        host = with_resources(state.host, state.updating.resources)
        merged = Resources(**{name: getattr(host, name) for name in UPDATABLE})
        report: Command = c.ReportUpdated(container_id=effect.container_id, update=effect.number)
        try:
            await self._runtime.update(effect.container_id, limits(merged))
        except PortError as error:
            report = c.ReportUpdateFailed(
                container_id=effect.container_id, update=effect.number, error=error.message
            )
        await self._hands.report(NAME, correlation, report)
