"""A volume: made, referenced by containers, removed. References are a fold: a container's end is an event here too.

Small aggregate in one module: commands, events, state, lifecycle, decide.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import ClassVar, assert_never

import msgspec
from msgspec.structs import replace

from engine.aggregates.decider import Command, Decider, Event, Reason, Rejected
from engine.aggregates.values.ids import ContainerID, VolumeName

NAME_BYTES_MAX = 255
"""Of a directory's name: Docker finds out when it makes the directory, and answers 500."""


class VolumeCommand(Command, frozen=True, kw_only=True):
    name: VolumeName

    @property
    def key(self) -> str:
        return self.name


class CreateVolume(VolumeCommand, frozen=True, kw_only=True):
    """Idempotent for the same driver: the existing volume stays as it is (VOL-01)."""

    at: int
    driver: str
    options: Mapping[str, str]
    labels: Mapping[str, str]
    anonymous: bool


class ReferenceVolume(VolumeCommand, frozen=True, kw_only=True):
    container_id: ContainerID


class ReleaseVolume(VolumeCommand, frozen=True, kw_only=True):
    container_id: ContainerID


class RemoveVolume(VolumeCommand, frozen=True, kw_only=True):
    at: int


class ReportVolumeRemoved(VolumeCommand, frozen=True, kw_only=True):
    pass


class ReportVolumeRemoveFailed(VolumeCommand, frozen=True, kw_only=True):
    error: str


class VolumeCreated(Event, frozen=True, kw_only=True):
    """The directory follows from the name; every use makes sure of it, so this is intent and outcome in one."""

    NAME: ClassVar[str] = "volume.created"
    at: int
    driver: str
    options: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    anonymous: bool = False


class VolumeReferenced(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "volume.referenced"
    container_id: ContainerID


class VolumeReleased(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "volume.released"
    container_id: ContainerID


class VolumeRemoveRequested(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "volume.remove_requested"
    at: int


class VolumeRemoved(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "volume.removed"


class VolumeRemoveFailed(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "volume.remove_failed"
    error: str


VolumeEvent = (
    VolumeCreated | VolumeReferenced | VolumeReleased | VolumeRemoveRequested | VolumeRemoved | VolumeRemoveFailed
)


class VolumeStatus(enum.Enum):
    ABSENT = "absent"
    READY = "ready"
    REMOVING = "removing"


TRANSITIONS: dict[tuple[VolumeStatus, type[Event]], tuple[VolumeStatus, str]] = {
    (VolumeStatus.ABSENT, VolumeCreated): (VolumeStatus.READY, "user"),
    (VolumeStatus.READY, VolumeReferenced): (VolumeStatus.READY, "user"),
    (VolumeStatus.READY, VolumeReleased): (VolumeStatus.READY, "lifecycle reactor"),
    (VolumeStatus.READY, VolumeRemoveRequested): (VolumeStatus.REMOVING, "user"),
    (VolumeStatus.REMOVING, VolumeRemoved): (VolumeStatus.ABSENT, "volumes reactor"),
    (VolumeStatus.REMOVING, VolumeRemoveFailed): (VolumeStatus.READY, "volumes reactor"),
}


class VolumeState(msgspec.Struct, frozen=True, kw_only=True):
    """A removed volume is absent again: the name may be taken anew. `removals` counts settled removals."""

    name: VolumeName
    status: VolumeStatus = VolumeStatus.ABSENT
    created_at: int = 0
    driver: str = ""
    options: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    anonymous: bool = False
    references: frozenset[ContainerID] = frozenset()
    remove_error: str = ""


def initial(key: str) -> VolumeState:
    return VolumeState(name=VolumeName(key))


def evolve(state: VolumeState, event: VolumeEvent) -> VolumeState:
    row = TRANSITIONS.get((state.status, type(event)))
    assert row is not None, f"no transition from {state.status.value} by {event.NAME}"
    status = row[0]
    match event:
        case VolumeCreated():
            return VolumeState(
                name=state.name,
                status=status,
                created_at=event.at,
                driver=event.driver,
                options=event.options,
                labels=event.labels,
                anonymous=event.anonymous,
            )
        case VolumeReferenced():
            return replace(state, references=state.references | {event.container_id})
        case VolumeReleased():
            return replace(state, references=state.references - {event.container_id})
        case VolumeRemoveRequested():
            return replace(state, status=status, remove_error="")
        case VolumeRemoved():
            return VolumeState(name=state.name)
        case VolumeRemoveFailed():
            return replace(state, status=status, remove_error=event.error)
        case _:
            assert_never(event)


VolumeCommands = (
    CreateVolume | ReferenceVolume | ReleaseVolume | RemoveVolume | ReportVolumeRemoved | ReportVolumeRemoveFailed
)


def decide(state: VolumeState, command: VolumeCommands) -> tuple[Event, ...]:
    match command:
        case CreateVolume():
            return _create(state, command)
        case ReferenceVolume():
            if state.status is not VolumeStatus.READY:
                raise _missing(state)
            known = command.container_id in state.references
            return () if known else (VolumeReferenced(container_id=command.container_id),)
        case ReleaseVolume():
            held = command.container_id in state.references
            return (VolumeReleased(container_id=command.container_id),) if held else ()
        case RemoveVolume():
            if state.status is not VolumeStatus.READY:
                raise _missing(state)
            if state.references:
                users = ", ".join(sorted(state.references))
                raise Rejected(Reason.CONFLICT, f"remove {state.name}: volume is in use - [{users}]")
            return (VolumeRemoveRequested(at=command.at),)
        case ReportVolumeRemoved():
            return (VolumeRemoved(),) if state.status is VolumeStatus.REMOVING else ()
        case ReportVolumeRemoveFailed():
            return (VolumeRemoveFailed(error=command.error),) if state.status is VolumeStatus.REMOVING else ()
        case _:
            assert_never(command)


def _create(state: VolumeState, command: CreateVolume) -> tuple[Event, ...]:
    if state.status is VolumeStatus.REMOVING:
        raise Rejected(Reason.CONFLICT, f"volume {state.name} is being removed")
    if state.status is VolumeStatus.READY:
        if state.driver != command.driver:
            raise Rejected(
                Reason.CONFLICT,
                f"A volume named {state.name} already exists with the {state.driver} driver. "
                "Choose a different volume name.",
            )
        return ()
    if len(state.name.encode()) > NAME_BYTES_MAX:
        raise Rejected(Reason.SYSTEM, f"create {state.name}: mkdir {state.name}: file name too long")
    return (
        VolumeCreated(
            at=command.at,
            driver=command.driver,
            options=command.options,
            labels=command.labels,
            anonymous=command.anonymous,
        ),
    )


def _missing(state: VolumeState) -> Rejected:
    return Rejected(Reason.NOT_FOUND, f"get {state.name}: no such volume")


DECIDER: Decider[VolumeState] = Decider(
    name="volume",
    initial=initial,
    decide=decide,
    evolve=evolve,
    terminal=lambda state: state.status is VolumeStatus.ABSENT,
    commands=VolumeCommands.__args__,
    events=VolumeEvent.__args__,
    endings=(VolumeRemoved,),
)
