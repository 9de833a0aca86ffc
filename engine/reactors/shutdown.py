"""Stopping containers with the engine, when live-restore is turned off (SYS-13)."""

from __future__ import annotations

import trio

from engine.aggregates.container import commands as c
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Rejected
from engine.aggregates.values.signals import SIGTERM, parse_signal
from engine.reactors.base import Hands

NAME = "shutdown"
DEFAULT_STOP_S = 10
MARGIN_S = 5


async def stop_containers(hands: Hands, timeout_s: int) -> None:
    """Ask every container to end and wait. timeout_s: raised to the longest stop timeout plus five seconds; -1 waits
    for ever."""
    running = [state for state in hands.views.containers if state.alive]
    longest = max((_timeout_s(state) for state in running), default=0)
    limit_s = float("inf") if timeout_s < 0 else max(timeout_s, longest + MARGIN_S)
    with trio.move_on_after(limit_s):
        async with trio.open_nursery() as nursery:
            for state in running:
                nursery.start_soon(_stop, hands, state, name=f"stop {state.name}")


def _timeout_s(state: ContainerState) -> int:
    return state.config.stop_timeout if state.config.stop_timeout is not None else DEFAULT_STOP_S


async def _stop(hands: Hands, state: ContainerState) -> None:
    now = hands.clock.now_ns()
    timeout_s = _timeout_s(state)
    signal = parse_signal(state.config.stop_signal) if state.config.stop_signal else SIGTERM
    deadline = 0 if timeout_s < 0 else now + timeout_s * 1_000_000_000
    command = c.StopContainer(container_id=state.container_id, at=now, signal=signal, deadline=deadline)
    try:
        await hands.report(NAME, NAME, command)
    except Rejected:
        return
    await hands.pump.until(f"container:{state.container_id}", lambda after: not after.alive)
