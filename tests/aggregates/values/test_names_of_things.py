"""Signals, capabilities and references: how people spell them, and what they mean."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values import capabilities
from engine.aggregates.values.reference import Reference, parse
from engine.aggregates.values.signals import parse_signal

SHA = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize("known", sorted(signal.Signals), ids=lambda known: known.name)
def test_every_signal_of_the_system_is_known_by_name_and_number(known: signal.Signals) -> None:
    assert parse_signal(known.name) == known
    assert parse_signal(known.name.removeprefix("SIG").lower()) == known
    assert parse_signal(str(int(known))) == known


@pytest.mark.parametrize(
    ("text", "number"), [("RTMIN+0", 34), ("SIGRTMIN+15", 49), ("RTMAX-14", 50), ("rtmax-1", 63), ("64", 64)]
)
def test_realtime_signals_are_counted_from_either_end(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-1", "SIG", "FISH", "RTMIN+31", "RTMAX-31", "9 ", "SIGSIGKILL", "²"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse_signal(text)
    assert (caught.value.reason, caught.value.message) == (Reason.INVALID, f"invalid signal: {text}")


@pytest.mark.parametrize("name", ["NET_ADMIN", "net_admin", "CAP_NET_ADMIN", "cap_net_admin"])
def test_a_capability_is_known_by_any_spelling(name: str) -> None:
    assert capabilities.normalize([name], "CapAdd") == ("CAP_NET_ADMIN",)


def test_all_capabilities_are_a_word_of_their_own() -> None:
    assert capabilities.normalize(["all", "CHOWN"], "CapDrop") == ("ALL", "CAP_CHOWN")
    assert set(capabilities.DEFAULT) < set(capabilities.ALL)
    assert (len(capabilities.ALL), len(capabilities.DEFAULT)) == (41, 14)


def test_capabilities_are_in_the_kernels_order() -> None:
    order = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_CHECKPOINT_RESTORE": 40}
    assert {name: capabilities.ALL.index(name) for name in order} == order


@pytest.mark.parametrize(
    ("text", "whole", "familiar"),
    [
        ("alpine", "docker.io/library/alpine", "alpine"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
        ("library/alpine", "docker.io/library/alpine", "alpine"),
        ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine", "alpine"),
        ("index.docker.io/alpine", "docker.io/library/alpine", "alpine"),
        ("user/app:1", "docker.io/user/app:1", "user/app:1"),
        ("a/b/c", "docker.io/a/b/c", "a/b/c"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/app", "localhost:5000/app", "localhost:5000/app"),
        ("127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b:t"),
        ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
        ("ghcr.io/x/y", "ghcr.io/x/y", "ghcr.io/x/y"),
        ("Registry/app", "Registry/app", "Registry/app"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
        (f"alpine@{SHA}", f"docker.io/library/alpine@{SHA}", f"alpine@{SHA}"),
        (f"alpine:3@{SHA}", f"docker.io/library/alpine:3@{SHA}", f"alpine:3@{SHA}"),
        ("x/a-b__c.d", "docker.io/x/a-b__c.d", "x/a-b__c.d"),
        ("ghcr.io", "docker.io/library/ghcr.io", "ghcr.io"),
        ("a:Tag_1.x-y", "docker.io/library/a:Tag_1.x-y", "a:Tag_1.x-y"),
        ("app:5000", "docker.io/library/app:5000", "app:5000"),
    ],
)
def test_a_reference_is_read_and_shown_as_docker_does(text: str, whole: str, familiar: str) -> None:
    reference = parse(text)
    assert (str(reference), reference.familiar) == (whole, familiar)
    assert parse(whole) == parse(familiar) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":tag",
        "/app",
        "app/",
        "a//b",
        "-app",
        "app-",
        "a..b",
        "a___b",
        "app:",
        "app:-tag",
        "app:" + "t" * 129,
        "app@sha256:short",
        "app@",
        "https://ghcr.io/a",
        "a b",
        "app:tag:tag",
        "[fe80::1%eth0]:5000/app",
        "a_b.c/d",
        "app\n",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match="invalid reference format") as caught:
        parse(text)
    assert caught.value.reason is Reason.INVALID


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "0123456789abcdef" * 4,
            f"invalid repository name ({'0123456789abcdef' * 4}), cannot specify 64-byte hexadecimal strings",
        ),
        ("user/App", "invalid reference format: repository name (user/App) must be lowercase"),
        ("a" * 256, "repository name must not be more than 255 characters"),
    ],
)
def test_a_reference_is_refused_in_dockers_words(text: str, words: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse(text)
    assert caught.value.message == words


def test_latest_is_meant_where_nothing_is_said() -> None:
    assert parse("alpine").with_default_tag().tag == "latest"
    assert parse("alpine:3").with_default_tag().tag == "3"
    assert parse(f"alpine@{SHA}").with_default_tag().tag == ""


COMPONENT = st.from_regex(r"[a-z0-9]{1,5}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
REFERENCES = st.builds(
    Reference,
    domain=st.sampled_from(["docker.io", "localhost", "ghcr.io", "127.0.0.1:5000", "Host"]),
    path=st.lists(COMPONENT, min_size=2, max_size=4).map("/".join),
    tag=st.just("") | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    digest=st.sampled_from(["", SHA]),
)


@given(reference=REFERENCES)
def test_what_is_written_out_can_be_read_again(reference: Reference) -> None:
    assert parse(str(reference)) == reference
