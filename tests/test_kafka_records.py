"""Events as records of Kafka: they come back as they stand in the log, and are CloudEvents."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import StoredEvent
from eventstore.kafka.records import Headers, NotOurs, carried, record_of

#: What libpq can hand out: no half of a surrogate pair.
WORDS = st.text(st.characters(exclude_categories=["Cs"]))
POSITIONS = st.integers(1, 2**63 - 1)
ZONES = st.timezones() | st.just(UTC) | st.just(timezone(timedelta(hours=5, minutes=45)))
EVENTS = st.builds(
    StoredEvent,
    position=POSITIONS,
    stream_id=st.uuids(),
    version=st.integers(1, 2**31 - 1),
    topic=WORDS,
    state=st.binary(),
    event_id=st.uuids(),
    organisation_id=st.uuids(),
    recorded_at=st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=ZONES),  # noqa: DTZ001
    correlation_id=st.uuids(),
    causation_id=st.none() | st.uuids(),
    actor=WORDS,
)
NEEDED = {
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_subject",
    "ce_time",
    "content-type",
    "traceparent",
    "ce_position",
    "ce_previous",
    "ce_streamversion",
    "ce_actor",
    "ce_epoch",
}


def an_event(**changes: object) -> StoredEvent:
    fields = {
        "position": 7,
        "stream_id": uuid4(),
        "version": 3,
        "topic": "orders.OrderPlaced.v1",
        "state": b'{"order_id":"O-1"}',
        "event_id": uuid4(),
        "organisation_id": uuid4(),
        "recorded_at": datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
        "correlation_id": uuid4(),
        "causation_id": uuid4(),
        "actor": "anä",
    }
    return StoredEvent(**fields | changes)  # type: ignore[arg-type]


@given(EVENTS, st.data(), st.uuids())
def test_an_event_comes_back_as_it_stands_in_the_log(
    event: StoredEvent, data: st.DataObject, epoch: UUID
) -> None:
    previous = data.draw(st.integers(0, event.position - 1))
    found = carried(*record_of(event, previous, str(epoch).encode()))
    assert found == (event, previous, epoch)
    assert found.event.recorded_at.utcoffset() == timedelta(0)


@given(EVENTS, st.uuids())
def test_a_record_is_a_cloud_event_with_a_trace(event: StoredEvent, epoch: UUID) -> None:
    key, value, headers = record_of(event, 0, str(epoch).encode())
    said = dict(headers)
    assert len(said) == len(headers)
    assert (key, value) == (str(event.stream_id).encode(), event.state)
    for name in said:
        assert re.fullmatch(r"ce_[a-z0-9]{1,20}|content-type|traceparent", name), name
    assert said["ce_specversion"] == b"1.0"
    assert said["ce_id"].decode() == str(event.event_id)
    assert said["ce_source"].decode() == f"/organisations/{event.organisation_id}"
    assert said["ce_subject"] == key
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", said["ce_time"])
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", said["traceparent"])
    assert said["traceparent"][3:35].decode() == event.correlation_id.hex
    assert ("ce_causationid" in said) == (event.causation_id is not None)


def test_every_header_but_the_cause_is_needed() -> None:
    key, value, headers = record_of(an_event(), 2, str(uuid4()).encode())
    assert {name for name, _ in headers} == NEEDED | {"ce_causationid"}
    for missing in NEEDED:
        with pytest.raises(NotOurs):
            carried(key, value, [one for one in headers if one[0] != missing])
    without = [one for one in headers if one[0] != "ce_causationid"]
    assert carried(key, value, without).event.causation_id is None


@pytest.mark.parametrize("name", sorted(NEEDED | {"ce_causationid"}))
@pytest.mark.parametrize("junk", [None, b"\xff\xfe"])
def test_a_header_of_junk_is_not_ours(name: str, junk: bytes | None) -> None:
    key, value, headers = record_of(an_event(), 2, str(uuid4()).encode())
    spoiled = [(one, junk if one == name else said) for one, said in headers]
    if name == "ce_causationid" and junk is None:
        assert carried(key, value, spoiled).event.causation_id is None  # type: ignore[arg-type]
        return
    with pytest.raises(NotOurs):
        carried(key, value, spoiled)  # type: ignore[arg-type]


def changed(**said: bytes) -> Callable[[Headers], Headers]:
    return lambda headers: [(name, said.get(name, value)) for name, value in headers]


@pytest.mark.parametrize(
    "change",
    [
        changed(ce_specversion=b"0.3"),
        changed(ce_source=b"/shops/0198e3a0-0000-7000-8000-000000000001"),
        changed(ce_source=b"0198e3a0-0000-7000-8000-000000000001"),
        changed(ce_subject=b"0198e3a0-0000-7000-8000-000000000001"),
        changed(ce_time=b"2026-03-04T05:06:07"),
        changed(ce_position=b"2"),
        changed(ce_position=b"0", ce_previous=b"-1"),
        changed(ce_previous=b"-1"),
        changed(ce_previous=b"8"),
        changed(traceparent=b"00-abc-def-01"),
    ],
)
def test_what_contradicts_itself_is_not_ours(change: Callable[[Headers], Headers]) -> None:
    key, value, headers = record_of(an_event(), 2, str(uuid4()).encode())
    assert carried(key, value, headers).previous == 2
    with pytest.raises(NotOurs):
        carried(key, value, change(headers))


def test_a_record_without_key_or_value_is_not_ours() -> None:
    key, value, headers = record_of(an_event(), 2, str(uuid4()).encode())
    with pytest.raises(NotOurs):
        carried(None, value, headers)
    with pytest.raises(NotOurs):
        carried(key, None, headers)
    with pytest.raises(NotOurs):
        carried(b"a stream", value, headers)


@given(
    st.none() | st.binary(),
    st.none() | st.binary(),
    st.lists(st.tuples(st.text() | st.sampled_from(sorted(NEEDED)), st.binary())),
)
def test_junk_is_not_ours(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
) -> None:
    with pytest.raises(NotOurs):
        carried(key, value, headers)
