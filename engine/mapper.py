"""Between our events and `eventsourcing`'s stored events.

Owns the adapter only; the bytes are engine/codec.py's. The library's own mapper ties stored names to module paths and
can not build slotted objects, so both of its methods are replaced, and take and give `Recorded`.
"""

from __future__ import annotations

from typing import cast

from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import JSONTranscoder, Mapper, StoredEvent

from engine.aggregates.decider import Recorded
from engine.codec import EventCodec

NO_POSITION = 0
"""Of an event made of a stored one: that has none, only its row has."""


class EventMapper(Mapper[str]):
    """Stored names are stable, bytes are msgpack. Its base class asks for a transcoder, never used."""

    def __init__(self, codec: EventCodec) -> None:
        super().__init__(JSONTranscoder())
        self.codec = codec

    def to_stored_event(self, domain_event: DomainEventProtocol[str] | Recorded) -> StoredEvent:
        recorded = cast(Recorded, domain_event)
        topic, state = self.codec.encode(recorded.time_ns, recorded.cause, recorded.event)
        return StoredEvent(recorded.stream, recorded.version, topic, state)

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[str]:
        time_ns, cause, event = self.codec.decode(stored_event.topic, stored_event.state)
        recorded = Recorded(
            position=NO_POSITION,
            stream=str(stored_event.originator_id),
            version=stored_event.originator_version,
            time_ns=time_ns,
            cause=cause,
            event=event,
        )
        return cast("DomainEventProtocol[str]", recorded)
