"""What a container's state asks of the world: a pure function from state to effects.

The plan reads the state and not the event that led to it. So the same function serves a running engine (called after
every event of the container) and a starting one (called for every container): a clean start is a recovery with an
empty list. Effects carry the key of the intent they answer; the reactor runs each key at most once at a time.
"""

from __future__ import annotations

import msgspec

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.values.ids import ContainerID


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Something to make true. Equal effects are the same effect."""

    container_id: ContainerID


class Start(Effect, frozen=True, kw_only=True):
    run: int


class End(Effect, frozen=True, kw_only=True):
    """Signal now, and SIGKILL at the deadline (ns; 0: never)."""

    run: int
    signal: int
    deadline: int


class Kill(Effect, frozen=True, kw_only=True):
    """A signal that is meant to end the process: repeated with SIGKILL if it does not."""

    run: int
    signal: int


class Freeze(Effect, frozen=True, kw_only=True):
    run: int


class Thaw(Effect, frozen=True, kw_only=True):
    run: int


class Update(Effect, frozen=True, kw_only=True):
    """Give the kernel the limits of the update with this number."""

    run: int
    number: int


class JoinNetwork(Effect, frozen=True, kw_only=True):
    """The wish itself stays in the state: effects are keys, and so hold nothing but what can be hashed."""

    run: int
    network_id: str


class LeaveNetwork(Effect, frozen=True, kw_only=True):
    run: int
    network_id: str


class Remove(Effect, frozen=True, kw_only=True):
    """Delete what is left of a container that does not run."""


class StartAgain(Effect, frozen=True, kw_only=True):
    """A restart policy's start, due at a time (ns)."""

    run: int
    due_at: int


def plan(state: ContainerState) -> tuple[Effect, ...]:
    """Everything the state still waits for. Total: every state has a plan, most an empty one."""
    of = state.container_id
    effects: list[Effect] = []
    if state.starting:
        effects.append(Start(container_id=of, run=state.run))
    if state.status is Status.RESTARTING and state.restart_due_at:
        effects.append(StartAgain(container_id=of, run=state.run, due_at=state.restart_due_at))
    if state.status is Status.REMOVING and not state.alive:
        effects.append(Remove(container_id=of))
    if not state.alive:
        return tuple(effects)
    if state.kill_signal:
        effects.append(Kill(container_id=of, run=state.run, signal=state.kill_signal))
    if state.stop is not None:
        effects.append(End(container_id=of, run=state.run, signal=state.stop.signal, deadline=state.stop.deadline))
    if state.status is Status.PAUSING:
        effects.append(Freeze(container_id=of, run=state.run))
    if state.status is Status.UNPAUSING:
        effects.append(Thaw(container_id=of, run=state.run))
    if state.updating is not None and state.status is not Status.REMOVING:
        effects.append(Update(container_id=of, run=state.run, number=state.updates))
    effects.extend(JoinNetwork(container_id=of, run=state.run, network_id=wish.network_id) for wish in state.connecting)
    effects.extend(
        LeaveNetwork(container_id=of, run=state.run, network_id=network_id) for network_id in state.disconnecting
    )
    return tuple(effects)
