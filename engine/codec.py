"""The stored form of an event: stable name and version, and msgpack bytes. Pure.

Owns: how an event and its envelope become (topic, state) and come back, with old versions lifted by upcasters.
Refuses to know: where rows are kept, who writes them, module paths (a class may move; its NAME does not).
"""

from __future__ import annotations

from collections.abc import Iterable
from types import GenericAlias
from typing import Any

import msgspec

from engine.aggregates.decider import Cause, Event
from engine.upcasters import UPCASTERS, Upcasters


class LogError(Exception):
    """The log holds something this engine can not read, or does not hold together. Nothing may be built on it."""


class UnknownEventError(LogError):
    """A stored name or version that no event class answers to: written by a newer engine, or damage."""


def topic_of(event_type: type[Event]) -> str:
    """`container.started@1`."""
    return f"{event_type.NAME}@{event_type.SCHEMA}"


def split_topic(topic: str) -> tuple[str, int]:
    """(name, schema version). Raises UnknownEventError when it is no topic."""
    name, separator, version = topic.rpartition("@")
    if not separator or not version.isdecimal():
        raise UnknownEventError(f"{topic!r} is not the name of an event")
    return name, int(version)


class EventCodec:
    """Encodes and decodes the events it was given. Stateless after construction, safe in threads."""

    def __init__(self, events: Iterable[type[Event]], upcasters: Upcasters = UPCASTERS) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._types: dict[str, type[Event]] = {}
        for event_type in events:
            known = self._types.setdefault(event_type.NAME, event_type)
            if known is not event_type:
                raise ValueError(f"{known!r} and {event_type!r} are both stored as {event_type.NAME!r}")
        self._topics = {event_type: topic_of(event_type) for event_type in self._types.values()}
        # One typed decoder per event decodes envelope and payload in one pass, without an intermediate dict.
        self._decoders: dict[str, msgspec.msgpack.Decoder[tuple[int, str, str, str, Event]]] = {
            topic: msgspec.msgpack.Decoder(GenericAlias(tuple, (int, str, str, str, event_type)))
            for event_type, topic in self._topics.items()
        }
        self._upcasters = upcasters

    @property
    def types(self) -> tuple[type[Event], ...]:
        return tuple(self._types.values())

    def type_of(self, topic: str) -> type[Event]:
        """The class of what is stored under a topic, whatever its version. Raises UnknownEventError."""
        name, version = split_topic(topic)
        event_type = self._types.get(name)
        if event_type is None or version > event_type.SCHEMA:
            raise UnknownEventError(f"the log holds {topic!r}, which this version of the engine does not know")
        return event_type

    def encode(self, time_ns: int, cause: Cause, event: Event) -> tuple[str, bytes]:
        """(topic, state). Raises KeyError for an event class no decider announced, which is a bug."""
        envelope = (time_ns, cause.actor, cause.correlation, cause.causation, event)
        return self._topics[type(event)], self._encoder.encode(envelope)

    def decode(self, topic: str, state: bytes) -> tuple[int, Cause, Event]:
        """(time_ns, cause, event). Raises LogError."""
        decoder = self._decoders.get(topic)
        try:
            if decoder is not None:
                time_ns, actor, correlation, causation, event = decoder.decode(state)
            else:
                time_ns, actor, correlation, causation, event = self._lift(topic, state)
        except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, ValueError) as error:
            raise LogError(f"a stored {topic!r} can not be read: {error}") from error
        return time_ns, Cause(actor=actor, correlation=correlation, causation=causation), event

    def decode_plain(self, topic: str, state: bytes) -> tuple[int, Cause, dict[str, Any]]:
        """As `decode`, with the payload as stored: for tools that show events they do not know. Raises LogError."""
        try:
            time_ns, actor, correlation, causation, payload = msgspec.msgpack.decode(state)
            cause = msgspec.convert({"actor": actor, "correlation": correlation, "causation": causation}, Cause)
        except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, ValueError) as error:
            raise LogError(f"a stored {topic!r} can not be read: {error}") from error
        return time_ns, cause, payload

    def _lift(self, topic: str, state: bytes) -> tuple[int, str, str, str, Event]:
        event_type = self.type_of(topic)
        name, version = split_topic(topic)
        time_ns, actor, correlation, causation, payload = msgspec.msgpack.decode(state)
        while version < event_type.SCHEMA:
            upcaster = self._upcasters.get((name, version))
            if upcaster is None:
                raise UnknownEventError(f"no upcaster lifts {name!r} from version {version}")
            payload, version = upcaster(payload), version + 1
        return time_ns, actor, correlation, causation, msgspec.convert(payload, event_type)
