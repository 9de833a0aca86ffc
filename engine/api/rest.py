"""Verbs that must not meet a start half-way wait for its outcome, as behind moby's lock of a container.

A stop that meets a policy's restart would be answered "not running", and the container would run; a network that is
left while a start joins it would keep the address for nobody.
"""

from __future__ import annotations

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.values.ids import ContainerID
from engine.api.context import ApiContext


async def at_rest(context: ApiContext, container_id: ContainerID, *, freezing: bool = False) -> ContainerState:
    """The container once no start is under way. Between the return and a command that is executed at once nothing can
    begin. freezing: pausing and unpausing are waited for, too; whoever asks it to end does not wait for those."""

    def resting(now: ContainerState) -> bool:
        return not now.starting and not (freezing and now.status in (Status.PAUSING, Status.UNPAUSING))

    while True:
        await context.pump.until(f"container:{container_id}", resting)
        state = context.application.newest("container", container_id)
        assert isinstance(state, ContainerState)
        if resting(state) or state.status is Status.REMOVED:
            return state
