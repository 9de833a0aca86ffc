"""What each log driver sends or stores, byte by byte (LOG-02, LOG-04, LOG-07)."""

from __future__ import annotations

import gzip
import json
import struct
import time
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.aggregates.values.log_subject import LogSubject
from engine.drivers.linux.logs.local import LocalFormat
from engine.drivers.linux.logs.plans import log_plan
from engine.drivers.linux.runtime.supervisor.logs import fluentd, gelf, journald, local, syslog
from engine.drivers.linux.runtime.supervisor.logs.lines import PARTIAL_SIZE, Lines
from engine.drivers.ports.runtime import LogSpec

NOW = 1_700_000_000_120_456_789
IDENT = "f" * 64


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local time is Berlin's, the process is number 7."""
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    monkeypatch.setattr("os.getpid", lambda: 7)


def plan(driver: str, **options: str) -> dict:
    subject = LogSubject(
        config={name.replace("_", "-"): value for name, value in options.items()},
        container_id="0123456789ab" + "c" * 52,
        name="web",
        path="sh",
        args=("-c", "<x>"),
        image_id="sha256:" + "d" * 64,
        image_name="busybox",
        created_at="2023-11-14T22:13:20.000000000Z",
        labels={"tier": "front"},
        hostname="ship",
    )
    return log_plan(LogSpec(driver=driver, path="/x", subject=subject))


@pytest.mark.parametrize(
    ("form", "before"),
    [
        ("", b"<30>Nov 14 23:13:20 0123456789ab[7]: "),
        ("rfc3164", b"<30>Nov 14 23:13:20 ship 0123456789ab[7]: "),
        ("rfc5424", b"<30>1 2023-11-14T23:13:20+01:00 ship 0123456789ab 7 0123456789ab - "),
        ("rfc5424micro", b"<30>1 2023-11-14T23:13:20.120456+01:00 ship 0123456789ab 7 0123456789ab - "),
    ],
)
def test_syslog_speaks_the_format_that_was_asked_for(form: str, before: bytes) -> None:
    messages = syslog.Syslog(plan("syslog", syslog_format=form))
    assert messages("stdout", [(b"one", None), (b"", None), (b"t w o", None)], NOW) == [
        before + b"one\n",
        before + b"t w o\n",
    ]


def test_syslog_tells_errors_facilities_and_tags_and_counts_bytes_over_tls() -> None:
    options = {"syslog_facility": "local7", "syslog_format": "rfc5424", "tag": "t"}
    spec = plan("syslog", syslog_address="tcp+tls://log:6514", **options)
    (message,) = syslog.Syslog(spec)("stderr", [(b"x", None)], NOW)
    body = b"<187>1 2023-11-14T23:13:20+01:00 ship t 7 t - x\n"
    assert message == b"%d %s" % (len(body), body)


def test_gelf_is_one_json_message_a_line() -> None:
    messages = gelf.Gelf(plan("gelf", gelf_address="tcp://log:1", labels="tier"))
    (message,) = messages("stderr", [(b'say "<hi>"', None), (b"", None)], NOW)
    assert message == (
        b'{"version":"1.1","host":"ship","short_message":"say \\"\\u003chi\\u003e\\"",'
        b'"timestamp":1700000000.12,"level":3,'
        b'"_command":"sh -c \\u003cx\\u003e","_container_id":"0123456789ab' + b"c" * 52 + b'","_container_name":"web",'
        b'"_created":"2023-11-14T22:13:20.000000000Z","_image_id":"sha256:' + b"d" * 64 + b'","_image_name":"busybox",'
        b'"_tag":"0123456789ab","_tier":"front"}\0'
    )


@pytest.mark.parametrize(
    ("kind", "unpack"), [("gzip", gzip.decompress), ("zlib", zlib.decompress), ("none", lambda data: data)]
)
def test_gelf_datagrams_are_compressed_and_cut_into_chunks(kind: str, unpack: object) -> None:
    messages = gelf.Gelf(plan("gelf", gelf_address="udp://log:1", gelf_compression_type=kind))
    text = json.dumps([number * 7919 % 9973 for number in range(2000)])
    datagrams = messages("stdout", [(text.encode(), None)], NOW)
    assert len(datagrams) > 1
    assert all(len(datagram) <= 1420 and datagram[:2] == b"\x1e\x0f" for datagram in datagrams)
    assert {datagram[2:10] for datagram in datagrams} == {datagrams[0][2:10]}
    assert [(datagram[10], datagram[11]) for datagram in datagrams] == [
        (number, len(datagrams)) for number in range(len(datagrams))
    ]
    whole = b"".join(datagram[12:] for datagram in datagrams)
    assert json.loads(unpack(whole))["short_message"] == text  # type: ignore[operator]


def test_fluentd_speaks_the_forward_protocol() -> None:
    messages = fluentd.Fluentd(plan("fluentd", tag="docker.{{.Name}}", labels="tier"))
    (first, last) = messages("stdout", [(b"one", None), (b"\xff", (IDENT, 2, True))], NOW)
    tag, when, record, option = msgspec.msgpack.decode(first)
    assert (tag, when, option) == ("docker.web", 1_700_000_000, {})
    assert record == {
        "container_id": "0123456789ab" + "c" * 52,
        "container_name": "/web",
        "source": "stdout",
        "tier": "front",
        "log": "one",
    }
    assert first[:12] == b"\x94\xaadocker.web"
    assert b"\xaepartial_ordinal"[1:] in last
    assert last.endswith(b"\xa3log\xa1\xff\x80")


def test_fluentd_times_can_be_exact_and_entries_acknowledged() -> None:
    spec = plan("fluentd", fluentd_sub_second_precision="true", fluentd_request_ack="true")
    (message,) = fluentd.Fluentd(spec)("stderr", [(b"x" * 300, None)], NOW)
    _, when, record, option = msgspec.msgpack.decode(message)
    assert (when.code, when.data) == (0, struct.pack(">II", 1_700_000_000, 120_456_789))
    assert record["log"] == "x" * 300
    assert message.endswith(option["chunk"].encode())
    assert len(option["chunk"]) == 24


def test_journald_gets_dockers_fields() -> None:
    messages = journald.Journald(plan("journald", labels="tier", tag="a\nb"))
    first, second = messages("stderr", [(b"one", None), (b"two", (IDENT, 1, False))], NOW)
    lines = first.split(b"\n")
    assert lines[:2] == [b"PRIORITY=3", b"MESSAGE=one"]
    assert b"CONTAINER_ID=0123456789ab\nCONTAINER_ID_FULL=0123456789ab" + b"c" * 52 in first
    assert b"CONTAINER_NAME=web\nCONTAINER_TAG\n\x03\0\0\0\0\0\0\0a\nb\nIMAGE_NAME=busybox\n" in first
    assert b"TIER=front\nSYSLOG_TIMESTAMP=2023-11-14T22:13:20.120456789Z\nCONTAINER_LOG_ORDINAL=1\n" in first
    assert second.endswith(
        b"CONTAINER_LOG_ORDINAL=2\nCONTAINER_PARTIAL_ID=" + IDENT.encode() + b"\nCONTAINER_PARTIAL_ORDINAL=1\n"
        b"CONTAINER_PARTIAL_LAST=false\nCONTAINER_PARTIAL_MESSAGE=true\n"
    )


def test_local_entries_have_dockers_bytes() -> None:
    """LOG-02: a protobuf LogEntry between its length, as moby marshals it."""
    attrs = plan("local", labels="tier")["attrs"]
    entry = local.encode([(b"hello", None)], b"stdout", NOW, attrs)
    body = (
        b"\x0a\x06stdout"  # source
        b"\x10\xd5\x8c\xe0\xea\xe3\x9f\xe7\xcb\x17"  # time_nano
        b"\x1a\x05hello"  # line
        b"\x32\x0d\x0a\x04tier\x12\x05front"  # attrs
    )
    assert entry == struct.pack(">I", len(body)) + body + struct.pack(">I", len(body))
    partial = local.encode([(b"x", ("id", 3, True))], b"stderr", NOW, b"")
    assert partial[4:-4].endswith(b"\x1a\x01x\x20\x01\x2a\x08\x08\x01\x12\x02id\x18\x03")


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(min_value=1, max_value=50))
def test_any_output_comes_back_from_a_local_log_whatever_the_chunks(chunks: list[bytes], step: int) -> None:
    """LOG-02, LOG-07"""
    lines = Lines()
    data = b"".join(local.encode(lines.feed(chunk), b"stdout", NOW, b"") for chunk in chunks)
    data += local.encode(lines.finish(), b"stdout", NOW, b"")
    form = LocalFormat()
    entries = [entry for at in range(0, len(data), step) for entry in form.entries(data[at : at + step])]
    assert "".join(entry.log for entry in entries) == b"".join(chunks).decode(errors="replace")
    assert {entry.stream for entry in entries} <= {"stdout"}


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("factor", [1, 2, 5])
def test_long_lines_come_in_numbered_parts(factor: int, ended: bool) -> None:
    """LOG-07"""
    line = "é".encode() * (PARTIAL_SIZE // 2 * factor) + b"xyz"
    for size in (113, 4096, 65536, len(line) + 1):
        data = line + b"\n" if ended else line
        lines = Lines()
        found = [entry for at in range(0, len(data), size) for entry in lines.feed(data[at : at + size])]
        found += lines.finish()
        assert b"".join(text for text, _ in found) == line
        parts = [part for _, part in found]
        assert len({part[0] for part in parts if part}) == 1
        assert [part[1] for part in parts if part] == list(range(1, len(found) + 1))
        assert [part[2] for part in parts if part] == [False] * (len(found) - 1) + [ended]
    assert lines.feed(b"short\n")[-1][0].endswith(b"short")
