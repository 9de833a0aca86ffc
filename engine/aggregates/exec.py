"""An exec: one more process in a running container. A low-retention stream: probes are many and say little.

The command line is sealed: exec arguments carry passwords more often than not. Small aggregate in one module.
"""

from __future__ import annotations

import enum
from typing import ClassVar, assert_never

import msgspec
from msgspec.structs import replace

from engine.aggregates.decider import Command, Decider, Event, Reason, Rejected, Retention
from engine.aggregates.values.ids import ContainerID, ExecID
from engine.aggregates.values.sealed import Sealed


class ExecCommand(Command, frozen=True, kw_only=True):
    exec_id: ExecID

    @property
    def key(self) -> str:
        return self.exec_id


class ExecSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, but for the command line and the environment, which are sealed."""

    user: str = ""
    working_dir: str = ""
    privileged: bool = False
    tty: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    height: int = 0
    width: int = 0

    @property
    def has_output(self) -> bool:
        """Whether a client is to see some."""
        return self.attach_stdout or self.attach_stderr


class CreateExec(ExecCommand, frozen=True, kw_only=True):
    """secret: the sealed JSON object {"Cmd": [...], "Env": [...]}; entrypoint: the program's name, for people."""

    BEGINS: ClassVar[bool] = True
    at: int
    container_id: ContainerID
    spec: ExecSpec
    secret: Sealed
    entrypoint: str


class StartExec(ExecCommand, frozen=True, kw_only=True):
    at: int
    detach: bool
    tty: bool
    height: int = 0
    width: int = 0


class ReportExecStarted(ExecCommand, frozen=True, kw_only=True):
    at: int
    pid: int


class ReportExecExited(ExecCommand, frozen=True, kw_only=True):
    """Also a start that failed (126, 127), and a loss (137: its container ended while nobody looked)."""

    at: int
    exit_code: int
    error: str = ""


class RemoveExec(ExecCommand, frozen=True, kw_only=True):
    """The sweep of execs that have ended, or whose container is gone."""


class ExecCreated(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "exec.created"
    RETENTION: ClassVar[Retention] = Retention.LOW
    at: int
    container_id: ContainerID
    spec: ExecSpec
    secret: Sealed
    entrypoint: str


class ExecStartRequested(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "exec.start_requested"
    RETENTION: ClassVar[Retention] = Retention.LOW
    at: int
    detach: bool = False
    height: int = 0
    width: int = 0


class ExecStarted(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "exec.started"
    RETENTION: ClassVar[Retention] = Retention.LOW
    at: int
    pid: int


class ExecExited(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "exec.exited"
    RETENTION: ClassVar[Retention] = Retention.LOW
    at: int
    exit_code: int
    error: str = ""


class ExecRemoved(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "exec.removed"
    RETENTION: ClassVar[Retention] = Retention.LOW


ExecEvent = ExecCreated | ExecStartRequested | ExecStarted | ExecExited | ExecRemoved


class ExecStatus(enum.Enum):
    ABSENT = "absent"
    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    EXITED = "exited"
    REMOVED = "removed"


TRANSITIONS: dict[tuple[ExecStatus, type[Event]], tuple[ExecStatus, str]] = {
    (ExecStatus.ABSENT, ExecCreated): (ExecStatus.CREATED, "user"),
    (ExecStatus.CREATED, ExecStartRequested): (ExecStatus.STARTING, "user"),
    (ExecStatus.STARTING, ExecStarted): (ExecStatus.RUNNING, "exec reactor"),
    (ExecStatus.STARTING, ExecExited): (ExecStatus.EXITED, "exec reactor"),
    (ExecStatus.RUNNING, ExecExited): (ExecStatus.EXITED, "supervisor"),
    (ExecStatus.CREATED, ExecRemoved): (ExecStatus.REMOVED, "exec reactor"),
    (ExecStatus.EXITED, ExecRemoved): (ExecStatus.REMOVED, "exec reactor"),
}


class ExecState(msgspec.Struct, frozen=True, kw_only=True):
    exec_id: ExecID
    status: ExecStatus = ExecStatus.ABSENT
    container_id: ContainerID = ContainerID("")
    spec: ExecSpec = ExecSpec()
    secret: Sealed | None = None
    entrypoint: str = ""
    created_at: int = 0
    detach: bool = False
    height: int = 0
    width: int = 0
    pid: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    error: str = ""

    @property
    def settled(self) -> bool:
        """The start has an outcome."""
        return self.status in (ExecStatus.RUNNING, ExecStatus.EXITED, ExecStatus.REMOVED)

    def attached(self, height: int = 0, width: int = 0) -> ExecState:
        """What it is once a client has asked for its start and attached; the size is that of the client's terminal."""
        return replace(self, status=ExecStatus.STARTING, detach=False, height=height, width=width)


def initial(key: str) -> ExecState:
    return ExecState(exec_id=ExecID(key))


def evolve(state: ExecState, event: ExecEvent) -> ExecState:
    row = TRANSITIONS.get((state.status, type(event)))
    assert row is not None, f"no transition from {state.status.value} by {event.NAME}"
    status = row[0]
    match event:
        case ExecCreated():
            return replace(
                state,
                status=status,
                container_id=event.container_id,
                spec=event.spec,
                secret=event.secret,
                entrypoint=event.entrypoint,
                created_at=event.at,
            )
        case ExecStartRequested():
            return replace(state, status=status, detach=event.detach, height=event.height, width=event.width)
        case ExecStarted():
            return replace(state, status=status, pid=event.pid, started_at=event.at)
        case ExecExited():
            return replace(
                state, status=status, pid=0, exit_code=event.exit_code, error=event.error, finished_at=event.at
            )
        case ExecRemoved():
            return replace(state, status=status)
        case _:
            assert_never(event)


ExecCommands = CreateExec | StartExec | ReportExecStarted | ReportExecExited | RemoveExec


def decide(state: ExecState, command: ExecCommands) -> tuple[Event, ...]:
    match command:
        case CreateExec():
            assert state.status is ExecStatus.ABSENT, "exec ids are drawn at random"
            return (
                ExecCreated(
                    at=command.at,
                    container_id=command.container_id,
                    spec=command.spec,
                    secret=command.secret,
                    entrypoint=command.entrypoint,
                ),
            )
        case StartExec():
            return _start(state, command)
        case ReportExecStarted():
            waiting = state.status is ExecStatus.STARTING
            return (ExecStarted(at=command.at, pid=command.pid),) if waiting else ()
        case ReportExecExited():
            if state.status not in (ExecStatus.STARTING, ExecStatus.RUNNING):
                return ()
            return (ExecExited(at=command.at, exit_code=command.exit_code, error=command.error),)
        case RemoveExec():
            ended = state.status in (ExecStatus.CREATED, ExecStatus.EXITED)
            return (ExecRemoved(),) if ended else ()
        case _:
            assert_never(command)


def _start(state: ExecState, command: StartExec) -> tuple[Event, ...]:
    match state.status:
        case ExecStatus.CREATED:
            return (
                ExecStartRequested(at=command.at, detach=command.detach, height=command.height, width=command.width),
            )
        case ExecStatus.RUNNING | ExecStatus.STARTING:
            raise Rejected(Reason.CONFLICT, f"exec command {state.exec_id} is already running")
        case ExecStatus.EXITED:
            raise Rejected(Reason.CONFLICT, f"exec command {state.exec_id} has already run")
        case _:
            raise Rejected(Reason.NOT_FOUND, f"No such exec instance: {state.exec_id}")


DECIDER: Decider[ExecState] = Decider(
    name="exec",
    initial=initial,
    decide=decide,
    evolve=evolve,
    terminal=lambda state: state.status is ExecStatus.REMOVED,
    commands=ExecCommands.__args__,
    events=ExecEvent.__args__,
    endings=(ExecRemoved,),
)
