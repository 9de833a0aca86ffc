"""The stored form: every event comes back as it went, also from the versions of the past."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import reference
from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.decider import Cause, Event
from engine.codec import EventCodec, LogError, UnknownEventError
from tests.support.strategies import structs, values

EVENTS = tuple(event for decider in ALL_DECIDERS for event in decider.events)
SAMPLES = Path(__file__).parent / "samples"
CAUSE = Cause(actor="uid=0", correlation="req-1", causation="@7")


class Renamed(Event, frozen=True, kw_only=True):
    """Version 1 had `label`, version 2 `title` as one text, version 3 has it as words."""

    NAME: ClassVar[str] = "sample.renamed"
    SCHEMA: ClassVar[int] = 3
    words: tuple[str, ...]
    note: str = ""


UPCASTERS = {
    ("sample.renamed", 1): lambda payload: {"title": payload["label"]},
    ("sample.renamed", 2): lambda payload: {"words": payload["title"].split()},
}


@pytest.mark.parametrize("event_type", EVENTS, ids=lambda event: event.NAME)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_event_comes_back_as_it_went(event_type: type[Event], data: st.DataObject) -> None:
    event = data.draw(structs(event_type))
    cause = data.draw(values(Cause))
    time_ns = data.draw(st.integers(0, 2**63 - 1))
    codec = EventCodec(EVENTS)
    topic, state = codec.encode(time_ns, cause, event)
    assert topic == f"{event_type.NAME}@{event_type.SCHEMA}"
    assert codec.decode(topic, state) == (time_ns, cause, event)
    assert EventCodec(EVENTS).decode(topic, state) == (time_ns, cause, event)


@pytest.mark.parametrize("decider", ALL_DECIDERS, ids=lambda decider: decider.name)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_state_survives_a_snapshot(decider, data: st.DataObject) -> None:
    state_type = type(decider.initial("key"))
    state = data.draw(structs(state_type))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=state_type) == state


def test_stored_names_are_unique_and_say_their_aggregate() -> None:
    assert len({event.NAME for event in EVENTS}) == len(EVENTS)
    for decider in ALL_DECIDERS:
        for event in decider.events:
            assert event.NAME.partition(".")[0] == decider.name, event


def test_two_events_of_one_name_are_refused() -> None:
    twin = msgspec.defstruct(
        "Twin", [("a", int)], bases=(Event,), frozen=True, kw_only=True, namespace={"NAME": "sample.renamed"}
    )
    with pytest.raises(ValueError, match=r"sample\.renamed"):
        EventCodec([Renamed, twin])


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_stored_sample_of_every_version_is_lifted_to_the_newest(version: int) -> None:
    state = (SAMPLES / f"sample.renamed@{version}.msgpack").read_bytes()
    codec = EventCodec([Renamed], UPCASTERS)
    assert codec.decode(f"sample.renamed@{version}", state) == (
        1_700_000_000_000_000_000,
        CAUSE,
        Renamed(words=("old", "name")),
    )


def test_a_version_from_the_future_or_without_an_upcaster_is_refused() -> None:
    codec = EventCodec([Renamed], {})
    for topic in ("sample.renamed@4", "sample.renamed@1", "sample.unknown@1", "no topic at all", "sample.renamed@x"):
        with pytest.raises(UnknownEventError):
            codec.decode(topic, msgspec.msgpack.encode((1, "", "", "", {"label": "x"})))


@pytest.mark.parametrize("state", [b"", b"\xc1", b"\x95", msgspec.msgpack.encode((1, "", "", "", {"words": 3}))])
def test_bytes_that_are_no_event_are_an_error_of_the_log(state: bytes) -> None:
    with pytest.raises(LogError):
        EventCodec([Renamed]).decode("sample.renamed@3", state)


def test_the_reference_of_events_is_current() -> None:
    page = Path(__file__).parents[2] / reference.PAGE
    assert page.read_text() == reference.events_page(), "run `python -m engine.reference`"
