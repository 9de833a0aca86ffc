"""`/events` over a socket: past, future, filters, versions."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import urllib.parse
from typing import Any

import msgspec
import pytest

from engine.aggregates import volume
from engine.aggregates.container import events as container
from engine.clock import SystemClock
from engine.projections.events_feed import EventsFeed
from tests.api.harness import connected, context, in_thread, served
from tests.projections.test_events_feed import CID, SECOND, Story, created


def with_feed(feed: EventsFeed) -> Any:
    return msgspec.structs.replace(context().views, events=feed)


def told() -> tuple[EventsFeed, Story]:
    """A feed with three messages, at 1, 2 and 3 seconds past 1970."""
    feed = EventsFeed()
    story = Story(feed)
    story.happen(f"container:{CID}", created(labels={"app": "shop"}), container.ContainerPaused(at=1))
    story.happen("volume:data", volume.VolumeCreated(at=1, driver="local"))
    return feed, story


def lines(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.replace(b"\x1e", b"").splitlines()]


async def test_the_past_is_told_between_since_and_until() -> None:
    feed, _ = told()
    async with served(views=with_feed(feed)) as engine:
        _, headers, body = await engine.ask("GET", "/v1.53/events?since=1&until=2.5")
        assert headers["content-type"] == "application/jsonl"
        assert [message["Action"] for message in lines(body)] == ["create", "pause"]
        assert lines(body)[0] == {
            "Type": "container",
            "Action": "create",
            "Actor": {"ID": CID, "Attributes": {"app": "shop", "image": "nginx:1", "name": "web"}},
            "scope": "local",
            "time": 1,
            "timeNano": SECOND,
        }
        status, _, body = await engine.ask("GET", "/events?since=5&until=2")
        assert status == 400
        assert json.loads(body)["message"] == "`since` time (5) cannot be after `until` time (2)"


async def test_old_clients_get_their_old_keys() -> None:
    feed, _ = told()
    async with served(views=with_feed(feed)) as engine:
        _, headers, body = await engine.ask("GET", "/v1.51/events?since=0&until=1")
        assert headers["content-type"] == "application/json"
        message = lines(body)[0]
        assert (message["status"], message["id"], message["from"]) == ("create", CID, "nginx:1")


@pytest.mark.parametrize("accepted", ["application/x-ndjson", "application/json-seq", "application/jsonl"])
async def test_the_content_type_is_negotiated(accepted: str) -> None:
    feed, _ = told()
    async with served(views=with_feed(feed)) as engine:
        _, headers, body = await engine.ask("GET", "/events?since=0&until=1", headers={"Accept": accepted})
        assert headers["content-type"] == accepted
        assert body.startswith(b"\x1e") == (accepted == "application/json-seq")


@pytest.mark.parametrize(
    ("filters", "actions"),
    [
        ({"type": ["volume"]}, ["create"]),
        ({"type": {"container": True}, "event": {"pause": True}}, ["pause"]),
        ({"container": ["web"]}, ["create", "pause"]),
        ({"container": [CID[:12]]}, ["create", "pause"]),
        ({"image": ["nginx"]}, ["create", "pause"]),
        ({"label": ["app=shop"]}, ["create", "pause"]),
        ({"label": ["app=else"]}, []),
        ({"scope": ["swarm"]}, []),
        ({"volume": ["data"]}, ["create"]),
    ],
)
async def test_filters_choose(filters: dict[str, Any], actions: list[str]) -> None:
    feed, _ = told()
    async with served(views=with_feed(feed)) as engine:
        query = urllib.parse.urlencode({"since": "0", "until": "9", "filters": json.dumps(filters)})
        _, _, body = await engine.ask("GET", f"/events?{query}")
        assert [message["Action"] for message in lines(body)] == actions
        status, _, body = await engine.ask("GET", "/events?filters=nonsense")
        assert (status, json.loads(body)) == (400, {"message": "invalid filter"})


async def test_what_comes_is_streamed_as_it_happens_and_ends_at_until() -> None:
    feed, story = told()
    until = SystemClock().now_ns() + SECOND

    def begin(path: str) -> socket.socket:
        sock = connected(path)
        sock.sendall(b"GET /events?until=%d.%09d HTTP/1.1\r\nHost: d\r\n" % divmod(until, SECOND))
        sock.sendall(b"Connection: close\r\n\r\n")
        return sock

    def upto(sock: socket.socket, mark: bytes) -> bytes:
        seen = b""
        while mark not in seen:
            seen += sock.recv(4096)
        return seen

    async with served(views=with_feed(feed)) as engine:
        with contextlib.closing(await in_thread(lambda: begin(engine.path))) as sock:
            await in_thread(lambda: upto(sock, b'"create"'))
            story.happen(f"container:{CID}", container.ContainerUnpaused(at=1))
            await in_thread(lambda: upto(sock, b'"unpause"'))
            await in_thread(lambda: upto(sock, b"0\r\n\r\n"))


@pytest.mark.skipif(shutil.which("docker") is None, reason="the docker CLI is not installed")
async def test_the_docker_cli_prints_events() -> None:
    feed, _ = told()

    def run(path: str) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DOCKER_HOST": f"unix://{path}"}
        command = ["docker", "events", "--since", "0", "--until", "3", "--format", "{{.Type}} {{.Action}}"]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=20).stdout

    async with served(views=with_feed(feed)) as engine:
        assert await in_thread(lambda: run(engine.path)) == "container create\ncontainer pause\nvolume create\n"
