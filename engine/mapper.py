"""Between our events and `eventsourcing`'s stored events.

Owns the adapter only; the bytes are engine/codec.py's. The library's own mapper ties stored names to module paths and
can not build slotted objects, so both of its methods are replaced.
"""

from __future__ import annotations

from typing import cast

import msgspec
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import JSONTranscoder, Mapper, StoredEvent

from engine.aggregates.decider import Cause, Event
from engine.codec import EventCodec


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An event on its way to the log, in the library's vocabulary (`DomainEventProtocol`): no position yet."""

    originator_id: str
    originator_version: int
    time_ns: int
    cause: Cause
    event: Event


class EventMapper(Mapper[str]):
    """Stored names are stable, bytes are msgpack. Its base class asks for a transcoder, never used."""

    def __init__(self, codec: EventCodec) -> None:
        super().__init__(JSONTranscoder())
        self.codec = codec

    def to_stored_event(self, domain_event: DomainEventProtocol[str]) -> StoredEvent:
        entry = cast(Entry, domain_event)
        topic, state = self.codec.encode(entry.time_ns, entry.cause, entry.event)
        return StoredEvent(entry.originator_id, entry.originator_version, topic, state)

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[str]:
        time_ns, cause, event = self.codec.decode(stored_event.topic, stored_event.state)
        return Entry(
            originator_id=str(stored_event.originator_id),
            originator_version=stored_event.originator_version,
            time_ns=time_ns,
            cause=cause,
            event=event,
        )
