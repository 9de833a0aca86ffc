"""What routes parse with: queries, filters, bodies, moments, credentials; and the words times are shown in."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import ContainerConfig, HealthConfig, HostConfig
from engine.api import filters, moments
from engine.api.app import EngineApp
from engine.api.bodies import decode_body, decode_json
from engine.api.params import Query, decode_credentials
from engine.api.responses import Response, json_response
from engine.api.routes.absent import ABSENT
from engine.api.shapes.times import ZERO_TIME, human_duration, rfc3339_nano, status_words
from engine.api.streams import frame, request
from engine.drivers.ports.registry import Credentials
from tests.api.harness import served

NS = 1_000_000_000
MINUTE, HOUR, DAY = 60 * NS, 3600 * NS, 24 * 3600 * NS


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("", False),
        ("0", False),
        ("no", False),
        ("False", False),
        ("NONE", False),
        ("1", True),
        ("yes", True),
        ("x", True),
    ],
)
def test_booleans_are_read_by_dockers_rule(text: str, truth: bool) -> None:
    query = Query({"all": [text]})
    assert query.flag("all", default=not truth) == truth
    assert query.flag("absent", default=True)


def test_numbers_are_refused_in_strconvs_words() -> None:
    query = Query({"t": ["10"], "bad": ["ten"], "none": [""]})
    assert (query.integer("t"), query.integer("none", 5), query.integer("absent")) == (10, 5, None)
    with pytest.raises(Rejected, match='strconv.ParseInt: parsing "ten": invalid syntax'):
        query.integer("bad")


@pytest.mark.parametrize("text", ['{"label":["a","b=c"]}', '{"label":{"a":true,"b=c":true}}'])
def test_both_shapes_of_filters_are_read(text: str) -> None:
    parsed = filters.parse(text)
    assert parsed.get("label") == ("a", "b=c")
    assert parsed.labels("label", {"a": "1", "b": "c"})
    assert not parsed.labels("label", {"a": "1", "b": "d"})
    assert not parsed.labels("label", None)


@pytest.mark.parametrize("text", ["x", "[]", '{"a":"b"}', '{"a":{"b":"c"}}', '{"a":[1]}'])
def test_filters_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(Rejected, match="^invalid filter$") as refused:
        filters.parse(text)
    assert refused.value.reason is Reason.INVALID


def test_filters_match_as_mobys_do() -> None:
    parsed = filters.parse('{"name":["^/we","other"],"id":["abc"],"dangling":["1"],"bad":["x","y"]}')
    assert parsed.match("name", "/web")
    assert parsed.match("name", "/another")
    assert not parsed.match("name", "/shop")
    assert parsed.match("absent", "anything")
    assert parsed.prefix("id", "abcdef")
    assert not parsed.exact("id", "abcdef")
    assert parsed.boolean("dangling", default=False)
    assert parsed.boolean("absent", default=True)
    with pytest.raises(Rejected, match=r"invalid filter 'bad=\[x y\]'"):
        parsed.boolean("bad", default=False)
    with pytest.raises(Rejected, match="invalid filter 'bad'"):
        parsed.validate({"name", "id", "dangling"})


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("0", 0),
        ("1700000000", 1_700_000_000 * NS),
        ("1700000000.5", 1_700_000_000 * NS + NS // 2),
        ("1700000000.000000001", 1_700_000_000 * NS + 1),
        ("2023-11-14T22:13:20Z", 1_700_000_000 * NS),
        ("2023-11-14T22:13:20.123456789Z", 1_700_000_000 * NS + 123_456_789),
        ("2023-11-15T00:13:20+02:00", 1_700_000_000 * NS),
        ("2023-11-14T22:13:20", 1_700_000_000 * NS),
        ("2023-11-14T22:13", 1_699_999_980 * NS),
        ("2023-11-14", 1_699_920_000 * NS),
        ("10m", 2_000_000_000 * NS - 10 * MINUTE),
        ("1h30m", 2_000_000_000 * NS - 90 * MINUTE),
        ("1.5h", 2_000_000_000 * NS - 90 * MINUTE),
        ("-10s", 2_000_000_000 * NS + 10 * NS),
    ],
)
def test_moments_are_read_in_every_form(text: str, time_ns: int) -> None:
    assert moments.moment_ns(text, now_ns=2_000_000_000 * NS) == time_ns


@pytest.mark.parametrize("text", ["yesterday", "10 m", "2023-13-01", "1h-3m", "12:00", "1.2.3"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match="failed to parse value as time or duration"):
        moments.moment_ns(text, now_ns=0)


class Body(ContainerConfig, frozen=True, kw_only=True, rename="pascal"):
    host_config: HostConfig | None = None


def test_bodies_are_read_as_go_reads_them() -> None:
    text = """{"image": "a", "Cmd": "echo hi", "Hostname": null, "LABELS": {"Keep": "Case"}, "Unknown": 1,
        "Healthcheck": {"test": ["NONE"], "Interval": null},
        "HostConfig": {"memory": 5, "PortBindings": {"80/tcp": [{"hostport": "1"}], "81/tcp": null}, "Init": null}}"""
    body = decode_json(text.encode(), Body)
    assert (body.image, body.cmd, body.hostname, body.labels) == ("a", ("echo hi",), "", {"Keep": "Case"})
    assert body.healthcheck == HealthConfig(test=("NONE",))
    host = body.host_config
    assert host is not None
    assert (host.memory, host.init) == (5, None)
    bindings = host.port_bindings
    assert isinstance(bindings, Mapping)
    assert bindings["81/tcp"] is None
    assert (bindings["80/tcp"] or ())[0].host_port == "1"
    assert decode_json(b"null", Body) == Body()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "invalid JSON: "),
        (b"{} {}", "unexpected content after JSON"),
        (b'{"Memory": "much"}', "invalid JSON: Expected `int`, got `str`"),
        (b"[]", "invalid JSON: Expected `object`, got `array`"),
    ],
)
def test_bad_bodies_are_refused(body: bytes, words: str) -> None:
    with pytest.raises(Rejected) as refused:
        decode_json(body, HostConfig)
    assert refused.value.message.startswith(words)
    assert refused.value.reason is Reason.INVALID


async def test_content_types_and_empty_bodies_are_refused_in_mobys_words() -> None:
    def register(app: EngineApp) -> None:
        @app.route("/body", methods=["POST"])
        async def body() -> Response:
            required = Query.of(request).text("required") != "0"
            return json_response({"cmd": (await decode_body(request, ContainerConfig, required=required)).cmd})

    json_type = {"Content-Type": "application/json"}
    async with served(register) as engine:

        async def ask(body: bytes, headers: dict[str, str], query: str = "") -> tuple[int, Any]:
            status, _, answer = await engine.ask("POST", f"/body{query}", body=body, headers=headers)
            return status, json.loads(answer)

        words = "unsupported Content-Type header (text/plain): must be 'application/json'"
        assert await ask(b"{}", {"Content-Type": "text/plain"}) == (400, {"message": words})
        words = "malformed Content-Type header (): mime: no media type"
        assert await ask(b"{}", {}) == (400, {"message": words})
        words = "invalid JSON: got EOF while reading request body"
        assert await ask(b"", json_type) == (400, {"message": words})
        assert await ask(b"", {}, "?required=0") == (200, {"cmd": None})
        assert await ask(b'{"Cmd":["a"]}', {"Content-Type": "application/json; charset=utf-8"}) == (200, {"cmd": ["a"]})


def test_registry_credentials_are_decoded_and_never_shown() -> None:
    plain = {"username": "me", "password": "p?>~", "serveraddress": "https://r"}
    for encode in (base64.urlsafe_b64encode, base64.b64encode):
        encoded = encode(json.dumps(plain).encode()).decode()
        for text in (encoded, encoded.rstrip("=")):
            found = decode_credentials(text)
            assert found == Credentials(username="me", password="p?>~")
            assert "p?>~" not in repr(found)
    pair = base64.b64encode(b"me:secret").decode()
    encoded = base64.urlsafe_b64encode(json.dumps({"auth": pair}).encode()).decode()
    assert decode_credentials(encoded) == Credentials(username="me", password="secret")
    assert decode_credentials("") is None
    assert decode_credentials(base64.urlsafe_b64encode(b"{}").decode()) is None
    with pytest.raises(Rejected, match="X-Registry-Auth"):
        decode_credentials("%%%")


def test_times_are_written_as_go_writes_them() -> None:
    assert rfc3339_nano(0) == ZERO_TIME
    assert rfc3339_nano(1_700_000_000 * NS) == "2023-11-14T22:13:20Z"
    assert rfc3339_nano(1_700_000_000 * NS + 120_000_000) == "2023-11-14T22:13:20.12Z"
    assert rfc3339_nano(1_700_000_000 * NS + 1) == "2023-11-14T22:13:20.000000001Z"


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        (0, "Less than a second"),
        (NS, "1 second"),
        (59 * NS, "59 seconds"),
        (MINUTE, "About a minute"),
        (3 * MINUTE, "3 minutes"),
        (59 * MINUTE, "59 minutes"),
        (HOUR, "About an hour"),
        (89 * MINUTE, "About an hour"),
        (90 * MINUTE, "2 hours"),
        (47 * HOUR, "47 hours"),
        (2 * DAY, "2 days"),
        (14 * DAY, "2 weeks"),
        (60 * DAY, "2 months"),
        (729 * DAY, "24 months"),
        (730 * DAY, "2 years"),
    ],
)
def test_durations_are_said_as_go_units_says_them(duration: int, words: str) -> None:
    assert human_duration(duration) == words


def test_the_status_column_is_dockers() -> None:
    now = 10 * HOUR
    assert status_words("running", now_ns=now, started_at_ns=now - 3 * MINUTE) == "Up 3 minutes"
    assert status_words("running", now_ns=now, started_at_ns=now, health="healthy").endswith("(healthy)")
    assert status_words("running", now_ns=now, started_at_ns=now, health="starting").endswith("(health: starting)")
    assert status_words("paused", now_ns=now, started_at_ns=now - 2 * NS) == "Up 2 seconds (Paused)"
    assert status_words("exited", now_ns=now, finished_at_ns=now - HOUR, exit_code=3) == "Exited (3) About an hour ago"
    assert status_words("created", now_ns=now) == "Created"


def test_frames_have_the_head_of_stdcopy() -> None:
    assert frame(2, b"oops") == b"\x02\x00\x00\x00\x00\x00\x00\x04oops"


async def test_nothing_is_both_there_and_declared_absent() -> None:
    from engine.api.app import create_app
    from tests.api.harness import context

    rules = {rule.pattern for rule in create_app(context()).routes if rule.method == "GET"}
    absent = [path for path, _ in ABSENT]
    assert len(absent) == len(set(absent))
    for path in absent:
        assert path in rules, path


def test_structs_of_bodies_keep_their_defaults() -> None:
    assert msgspec.json.encode(decode_json(b"{}", HostConfig)) == b"{}"


@pytest.mark.parametrize("text", ["9" * 40, "-" + "9" * 19, "9" * 5000, "9" * 30 + "h", "99999999999h"])
def test_moments_beyond_the_log_are_refused(text: str) -> None:
    with pytest.raises(Rejected, match="failed to parse value as time or duration"):
        moments.moment_ns(text, now_ns=2_000_000_000 * NS)


@pytest.mark.parametrize("text", ["9" * 40, "9" * 5000, "-" + "9" * 19])
def test_numbers_beyond_64_bits_are_refused(text: str) -> None:
    with pytest.raises(Rejected, match="value out of range"):
        Query({"t": [text]}).integer("t")
    with pytest.raises(Rejected, match="invalid JSON"):
        decode_json(f'{{"Memory": {text[:300]}}}'.encode(), HostConfig)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"Volumes":' * 100_000, b'{"Volumes": ' + b'{"a":' * 80 + b"1" + b"}" * 81]
)
def test_endless_nesting_is_refused(body: bytes) -> None:
    """Also below what is kept as it came: the log could not be read back."""
    with pytest.raises(Rejected, match="exceeded max depth"):
        decode_json(body, ContainerConfig)


def test_bytes_that_are_no_text_are_read_as_by_go() -> None:
    assert decode_json(b'{"Hostname": "a\xffb"}', ContainerConfig).hostname == "a\ufffdb"


def test_bad_base64_within_credentials_is_refused() -> None:
    with pytest.raises(Rejected, match="invalid X-Registry-Auth header"):
        decode_credentials(base64.urlsafe_b64encode(b'{"auth": "\xc3\xbc"}').decode())
