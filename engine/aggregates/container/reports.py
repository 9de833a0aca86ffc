"""What the world reported of a container: outcomes of what was asked for, and exits.

Every report names the run, commit or update it is about. One that the state has moved past (a repeat after a crash)
leads to no event and is never refused: nobody could do anything about it.
"""

from __future__ import annotations

from typing import assert_never

from engine.aggregates.container import commands as c
from engine.aggregates.container import events as e
from engine.aggregates.container.lifecycle import ALIVE, Status
from engine.aggregates.container.restart import next_delay_ms, wants_restart
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Event

Events = tuple[Event, ...]
UNEXECUTABLE = 128
SIGKILL = 9

ReportCommand = (
    c.ReportStarted
    | c.ReportStartFailed
    | c.ReportPaused
    | c.ReportUnpaused
    | c.ReportFreezeFailed
    | c.ReportOutOfMemory
    | c.ReportExited
    | c.ReportHealth
    | c.ReportStopOverdue
    | c.ReportCommitted
    | c.ReportCommitFailed
    | c.ReportUpdated
    | c.ReportUpdateFailed
    | c.ReportConnected
    | c.ReportConnectFailed
    | c.ReportDisconnected
    | c.ReportRemoved
)


def report(state: ContainerState, command: ReportCommand) -> Events:
    """What the world did. A report that the state has moved past (a repeat after a crash) changes nothing."""
    match command:
        case c.ReportStarted():
            if not state.starting or command.run != state.run:
                return ()
            return (
                e.ContainerStarted(
                    run=command.run,
                    at=command.at,
                    pid=command.pid,
                    endpoints=command.endpoints,
                    ports=command.ports,
                    carrier=command.carrier,
                ),
            )
        case c.ReportStartFailed():
            return _start_failed(state, command)
        case c.ReportPaused():
            return _paused(state, command)
        case c.ReportUnpaused():
            return (e.ContainerUnpaused(at=command.at),) if state.status is Status.UNPAUSING else ()
        case c.ReportFreezeFailed():
            waiting = state.status in (Status.PAUSING, Status.UNPAUSING)
            return (e.ContainerFreezeFailed(error=command.error),) if waiting else ()
        case c.ReportOutOfMemory():
            news = state.alive and command.run == state.run and command.count > state.ooms
            told = e.ContainerOutOfMemory(run=command.run, at=command.at, count=command.count)
            return (told,) if news else ()
        case c.ReportExited():
            return _with_update(state, _exited(state, command))
        case c.ReportHealth():
            if state.status not in ALIVE or command.run != state.run:
                return ()
            return (
                e.ContainerHealthReported(
                    at=command.at,
                    status=command.status,
                    failing_streak=command.failing_streak,
                    last=command.last,
                ),
            )
        case c.ReportStopOverdue():
            waiting = state.alive and command.run == state.run and state.stop is not None and not state.kill_signal
            return (e.ContainerKillRequested(at=command.at, signal=SIGKILL, ends=True),) if waiting else ()
        case c.ReportCommitted() | c.ReportCommitFailed():
            return _commit_ended(state, command)
        case c.ReportUpdated() | c.ReportUpdateFailed():
            return _update_settled(state, command)
        case c.ReportConnected():
            wish = next((a for a in state.connecting if a.network_id == command.network_id), None)
            return () if wish is None else (e.ContainerConnected(attachment=wish, endpoint=command.endpoint),)
        case c.ReportConnectFailed():
            if all(a.network_id != command.network_id for a in state.connecting):
                return ()
            return (e.ContainerConnectFailed(network_id=command.network_id, error=command.error),)
        case c.ReportDisconnected():
            if command.network_id not in state.disconnecting:
                return ()
            return (e.ContainerDisconnected(network_id=command.network_id),)
        case c.ReportRemoved():
            return (e.ContainerRemoved(at=command.at),) if state.status is Status.REMOVING else ()
        case _:
            assert_never(command)


def _update_settled(state: ContainerState, command: c.ReportUpdated | c.ReportUpdateFailed) -> Events:
    wanted = state.updating
    if wanted is None or command.update != state.updates:
        return ()
    if isinstance(command, c.ReportUpdateFailed):
        return (e.ContainerUpdateFailed(error=command.error),)
    return (e.ContainerUpdated(resources=wanted.resources, restart_policy=wanted.restart_policy),)


def _paused(state: ContainerState, command: c.ReportPaused) -> Events:
    """A signal that came while the freezer was at work would wait in a frozen process: it is thawed again."""
    if state.status is not Status.PAUSING:
        return ()
    ending = state.stop is not None or state.kill_signal != 0 or (state.frozen_by_commit and not state.commits)
    paused = e.ContainerPaused(at=command.at)
    return (paused, e.ContainerUnpauseRequested(at=command.at)) if ending else (paused,)


def _commit_ended(state: ContainerState, command: c.ReportCommitted | c.ReportCommitFailed) -> Events:
    """The last commit's outcome thaws what a commit froze; one that is still being frozen is thawed by `_paused`."""
    if command.commit_id not in state.commits:
        return ()
    outcome: Event
    if isinstance(command, c.ReportCommitted):
        outcome = e.ContainerCommitted(
            at=command.at,
            commit_id=command.commit_id,
            image_id=command.image_id,
            reference=command.reference,
            comment=command.comment,
        )
    else:
        outcome = e.ContainerCommitFailed(at=command.at, commit_id=command.commit_id, error=command.error)
    last = len(state.commits) == 1
    return (outcome, *(thawed(state, command.at) if last and state.frozen_by_commit else ()))


def _start_failed(state: ContainerState, command: c.ReportStartFailed) -> Events:
    if not state.starting or command.run != state.run:
        return ()
    failed = e.ContainerStartFailed(
        run=command.run, at=command.at, error=command.error, exit_code=command.exit_code or UNEXECUTABLE
    )
    if state.host.auto_remove:
        return (failed, e.ContainerRemoveRequested(at=command.at, volumes=True, auto=True))
    return (failed,)


def _with_update(state: ContainerState, ended: Events) -> Events:
    """Limits that were on their way when the process ended need no kernel any more: they are the next run's."""
    wanted = state.updating
    if wanted is None or not ended:
        return ended
    updated = e.ContainerUpdated(resources=wanted.resources, restart_policy=wanted.restart_policy)
    return (ended[0], updated, *ended[1:])


def _exited(state: ContainerState, command: c.ReportExited) -> Events:
    if not state.alive or command.run != state.run:
        return ()
    # Whoever watched the process may have seen its end before the start was told.
    at = max(command.at, state.started_at)
    exited = e.ContainerExited(
        run=command.run,
        at=at,
        exit_code=command.exit_code,
        oom_killed=command.oom_killed,
        lost=command.lost,
    )
    if state.status is Status.REMOVING:
        return (exited,)
    if state.stop is not None:
        stopped = e.ContainerStopped(at=at, restart=state.stop.restart)
        if state.stop.restart:
            now = e.ContainerRestartScheduled(due_at=at, delay_ms=0, restart_count=0)
            return (exited, stopped, now)
        return (exited, stopped, *_auto_remove(state, at))
    if not wants_restart(state.host.restart_policy, command.exit_code, state.restart_count, state.manually_stopped):
        return (exited, *_auto_remove(state, at))
    ran_for_ns = at - state.started_at
    delay_ms = next_delay_ms(state.restart_delay_ms, ran_for_ns)
    scheduled = e.ContainerRestartScheduled(
        due_at=at + delay_ms * 1_000_000, delay_ms=delay_ms, restart_count=state.restart_count + 1
    )
    return (exited, scheduled)


def _auto_remove(state: ContainerState, at: int) -> Events:
    return (e.ContainerRemoveRequested(at=at, volumes=True, auto=True),) if state.host.auto_remove else ()


def thawed(state: ContainerState, at: int) -> Events:
    """A frozen process can not act on a signal: whatever sends one thaws it first, as moby does."""
    return (e.ContainerUnpauseRequested(at=at),) if state.status is Status.PAUSED else ()
