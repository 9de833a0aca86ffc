"""Stopping containers with the engine, when live-restore is turned off (SYS-13)."""

from __future__ import annotations

import math

import trio

from engine.aggregates.container import commands as c
from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Rejected
from engine.aggregates.values.signals import SIGTERM, parse_signal
from engine.reactors.base import Hands

NAME = "shutdown"
DEFAULT_STOP_S = 10
MARGIN_S = 5


async def stop_containers(hands: Hands, timeout_s: int) -> None:
    """Ask every container to end and wait. Those that are about to start, by policy or because they were asked to, end
    too. timeout_s: raised to the longest stop timeout plus five seconds; -1 waits for ever, and so does a container
    with a stop timeout of -1. Source: moby daemon/daemon.go (shutdownTimeout)."""
    running = [s for s in hands.views.containers if s.alive or s.starting or s.status is Status.RESTARTING]
    timeouts_s = [_timeout_s(state) for state in running]
    forever = min((timeout_s, *timeouts_s)) < 0
    with trio.move_on_after(math.inf if forever else max(timeout_s, max(timeouts_s, default=0) + MARGIN_S)):
        async with trio.open_nursery() as nursery:
            for state in running:
                nursery.start_soon(_stop, hands, state, name=f"stop {state.name}")


def _timeout_s(state: ContainerState) -> int:
    return state.config.stop_timeout if state.config.stop_timeout is not None else DEFAULT_STOP_S


async def _stop(hands: Hands, state: ContainerState) -> None:
    await hands.pump.until(f"container:{state.container_id}", lambda after: not after.starting)
    now = hands.clock.now_ns()
    timeout_s = _timeout_s(state)
    signal = parse_signal(state.config.stop_signal) if state.config.stop_signal else SIGTERM
    deadline = 0 if timeout_s < 0 else now + timeout_s * 1_000_000_000
    command = c.StopContainer(container_id=state.container_id, at=now, signal=signal, deadline=deadline, shutdown=True)
    try:
        await hands.report(NAME, NAME, command)
    except Rejected:
        return
    await hands.pump.until(f"container:{state.container_id}", lambda after: not after.alive)
