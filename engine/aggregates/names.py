"""Names that must be unique: a ledger stream per name, so that a reservation is a fold and can not leak.

`name:container/web`, `name:network/backend`, `name:image/docker.io/library/alpine:latest`. Taking a name and making
what it names are one transaction. Small aggregate in one module: commands, events, state, decide.
"""

from __future__ import annotations

import enum
from typing import ClassVar, assert_never

import msgspec

from engine.aggregates.decider import Command, Decider, Event, Reason, Rejected
from engine.aggregates.values.ids import short


class NameKind(enum.Enum):
    CONTAINER = "container"
    NETWORK = "network"
    IMAGE = "image"


class NameCommand(Command, frozen=True, kw_only=True):
    kind: NameKind
    name: str

    @property
    def key(self) -> str:
        return name_key(self.kind, self.name)


class ReserveName(NameCommand, frozen=True, kw_only=True):
    """Take a free name. Rejected(CONFLICT) when another owner has it; taking it twice is taking it once."""

    owner: str


class MoveName(NameCommand, frozen=True, kw_only=True):
    """Take a name whoever has it: tags move from image to image."""

    owner: str


class ReleaseName(NameCommand, frozen=True, kw_only=True):
    """Give a name back; nothing happens when the owner does not have it."""

    owner: str


class NameReserved(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "name.reserved"
    owner: str


class NameReleased(Event, frozen=True, kw_only=True):
    NAME: ClassVar[str] = "name.released"
    owner: str


class NameState(msgspec.Struct, frozen=True, kw_only=True):
    owner: str = ""


def name_key(kind: NameKind, name: str) -> str:
    return f"{kind.value}/{name}"


def evolve(state: NameState, event: NameReserved | NameReleased) -> NameState:
    match event:
        case NameReserved():
            return NameState(owner=event.owner)
        case NameReleased():
            return NameState()
        case _:
            assert_never(event)


def decide(state: NameState, command: ReserveName | MoveName | ReleaseName) -> tuple[Event, ...]:
    match command:
        case ReserveName():
            if state.owner == command.owner:
                return ()
            if state.owner:
                raise Rejected(Reason.CONFLICT, _taken(command, state.owner))
            return (NameReserved(owner=command.owner),)
        case MoveName():
            return () if state.owner == command.owner else (NameReserved(owner=command.owner),)
        case ReleaseName():
            return (NameReleased(owner=state.owner),) if state.owner == command.owner else ()
        case _:
            assert_never(command)


def _taken(command: ReserveName, owner: str) -> str:
    match command.kind:
        case NameKind.CONTAINER:
            return (
                f'Conflict. The container name "/{command.name}" is already in use by container "{owner}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        case NameKind.NETWORK:
            return f"network with name {command.name} already exists"
        case NameKind.IMAGE:
            return f"{command.name} is already the name of image {short(owner)}"
        case _:
            assert_never(command.kind)


DECIDER: Decider[NameState] = Decider(
    name="name",
    initial=lambda key: NameState(),
    decide=decide,
    evolve=evolve,
    terminal=lambda state: not state.owner,
    commands=(ReserveName, MoveName, ReleaseName),
    events=(NameReserved, NameReleased),
    endings=(NameReleased,),
)
