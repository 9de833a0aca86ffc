"""`/events`: every action that Docker tells, with its attributes, and the filters."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import tarfile
import time
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.support.engine import Engine
from tests.support.hijacked import hijacked

pytestmark = pytest.mark.root
DETACH = b"\x10\x11"


def told(engine: Engine, since: float, prefix: str = "", **filters: str | list[str]) -> list[dict[str, Any]]:
    """The messages between a moment and now."""
    listed = {key: [value] if isinstance(value, str) else value for key, value in filters.items()}
    query = urlencode({"since": f"{since:.9f}", "until": f"{time.time():.9f}", "filters": json.dumps(listed)})
    status, body = engine.request("GET", f"{prefix}/events?{query}")
    assert status == 200, body
    return [json.loads(line) for line in body.splitlines()]


def actions(messages: list[dict[str, Any]]) -> list[str]:
    return [f"{message['Type']} {message['Action']}" for message in messages]


def last(messages: list[dict[str, Any]], action: str) -> dict[str, str]:
    """The attributes of the last message with an action."""
    found = [message["Actor"]["Attributes"] for message in messages if message["Action"].startswith(action)]
    assert found, (action, [message["Action"] for message in messages])
    attributes: dict[str, str] = found[-1]
    return attributes


def test_a_whole_life_in_order(engine: Engine) -> None:
    """EVT-05: create, attach, network connect, start, die, network disconnect, destroy; volumes mount and unmount."""
    since = time.time()
    engine.cli("run", "--rm", "--name", "lived", "-l", "k=v", "-v", "data:/data:ro", "busybox", "true")
    assert actions(told(engine, since)) == [
        "volume create", "container create", "container attach", "volume mount", "network connect", "container start",
        "container die", "network disconnect", "volume unmount", "container destroy",
    ]  # fmt: skip
    messages = told(engine, since)
    assert {message["scope"] for message in messages} == {"local"}
    assert last(messages, "create") == {"image": "busybox", "k": "v", "name": "lived"}
    assert last(messages, "die").items() >= {"exitCode": "0", "execDuration": "0"}.items()
    container = messages[1]["Actor"]["ID"]
    assert last(messages, "mount") == {
        "container": container, "destination": "/data", "driver": "local", "propagation": "", "read/write": "false",
    }  # fmt: skip
    assert last(messages, "connect") == {"container": container, "name": "bridge", "type": "bridge"}
    times = [message["timeNano"] for message in messages]
    assert times == sorted(times)
    assert all(message["time"] == message["timeNano"] // 10**9 for message in messages)


def test_a_stop_that_is_ignored_is_a_kill_too(engine: Engine) -> None:
    """EVT-05, CTR-10: kill 15, kill 9, die, stop; and a restart tells stop, start and restart."""
    engine.cli("run", "-d", "--name", "deaf", "busybox", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    since = time.time()
    engine.cli("stop", "-t", "0", "deaf")
    messages = told(engine, since, type="container")
    assert actions(messages) == ["container kill", "container kill", "container die", "container stop"]
    assert [message["Actor"]["Attributes"]["signal"] for message in messages[:2]] == ["15", "9"]
    assert messages[2]["Actor"]["Attributes"]["exitCode"] == "137"
    engine.cli("start", "deaf")
    since = time.time()
    engine.cli("restart", "-t", "0", "deaf")
    assert actions(told(engine, since, type="container")) == [
        "container kill", "container kill", "container die", "container stop", "container start", "container restart",
    ]  # fmt: skip


def test_a_shortage_of_memory_is_told_when_it_happens(engine: Engine) -> None:
    """EVT-03, CTR-19: a child is killed, the container lives on; a second one is told again, the end is no third."""
    eats = "while read line; do tail /dev/zero; echo again; done"
    since = time.time()
    limits = ("-m", "16m", "--memory-swap", "16m")
    container = engine.out("run", "-di", "--name", "eater", *limits, "busybox", "sh", "-c", eats)
    with hijacked(engine, "/containers/eater/attach?stream=1&stdin=1&stdout=1") as client:
        for shortages in (1, 2):
            client.send(b"eat\n")
            client.read_until(b"again\n")
            engine.wait_for(
                lambda n=shortages: actions(told(engine, since, type="container")).count("container oom") == n
            )
    assert last(told(engine, since, container="eater"), "oom").items() >= {"image": "busybox", "name": "eater"}.items()
    state = engine.json(f"/containers/{container}/json")["State"]
    assert (state["Running"], state["OOMKilled"]) == (True, True)
    engine.cli("kill", "eater")
    engine.wait_for(lambda: not engine.json(f"/containers/{container}/json")["State"]["Running"])
    assert actions(told(engine, since, type="container"))[-4:] == [
        "container oom", "container oom", "container kill", "container die",
    ]  # fmt: skip


def test_what_only_looks_is_told_too(engine: Engine) -> None:
    """EVT-03: attach, top, export, resize, archive-path, extract-to-dir, rename, update, pause, exec and its end."""
    engine.cli("run", "-dt", "--name", "host", "busybox", "sleep", "1000")
    since = time.time()
    engine.cli("top", "host")
    engine.cli("export", "-o", str(engine.root / "export.tar"), "host")
    for height in (24, 24, 40):  # the same size twice is told once
        assert engine.request("POST", f"/containers/host/resize?h={height}&w=80")[0] == 200
    assert engine.request("GET", "/containers/host/archive?path=/etc/passwd")[0] == 200
    assert engine.request("HEAD", "/containers/host/archive?path=/etc/passwd")[0] == 200
    archive = io.BytesIO()
    tarfile.open(fileobj=archive, mode="w").close()
    tar = {"Content-Type": "application/x-tar"}
    assert engine.request("PUT", "/containers/host/archive?path=/tmp", archive.getvalue(), **tar)[0] == 200
    engine.cli("update", "--restart", "no", "host")
    engine.cli("pause", "host")
    engine.cli("unpause", "host")
    engine.cli("exec", "host", "sh", "-c", "exit 3", check=False)
    engine.cli("rename", "host", "other")
    messages = told(engine, since, type="container")
    assert actions(messages) == [
        f"container {action}"
        for action in (
            "top", "export", "resize", "resize", "archive-path", "extract-to-dir", "update", "pause", "unpause",
            "exec_create: sh", "exec_start: sh", "exec_die", "rename",
        )
    ]  # fmt: skip
    assert last(messages, "resize").items() >= {"height": "40", "width": "80"}.items()
    assert last(messages, "exec_die")["exitCode"] == "3"
    assert len(last(messages, "exec_start")["execID"]) == 64
    assert last(messages, "rename").items() >= {"oldName": "/host", "name": "other"}.items()


def test_keys_detach_from_a_container_and_from_an_exec(engine: Engine) -> None:
    """EVT-03, EXE-04: the events detach and exec_detach; the processes go on."""
    engine.cli("run", "-dit", "--name", "host", "busybox", "sh")
    since = time.time()
    with hijacked(engine, "/containers/host/attach?stream=1&stdin=1&stdout=1") as client:
        client.send(DETACH)
        client.read_all()
    exec_id = engine.create_exec("host", "sh", Tty=True, AttachStdin=True, AttachStdout=True)
    with hijacked(engine, f"/exec/{exec_id}/start", {"Tty": True}) as client:
        client.read_until(b"#")
        client.send(DETACH)
        client.read_all()
    engine.wait_for(lambda: "container exec_detach" in actions(told(engine, since, type="container")))
    messages = told(engine, since, container="host")
    found = [message["Action"] for message in messages]
    assert found == ["attach", "detach", "exec_create: sh", "exec_start: sh", "exec_detach"]
    assert len(last(messages, "exec_detach")["execID"]) == 64
    assert engine.json("/containers/host/json")["State"]["Running"]


def test_images_volumes_networks_and_prunes(engine: Engine) -> None:
    """EVT-03: create, tag, save, untag, delete, and a prune with what it won, also when nothing went."""
    since = time.time()
    engine.cli("tag", "busybox", "other:1")
    engine.cli("save", "-o", str(engine.root / "saved.tar"), "other:1")
    engine.cli("rmi", "other:1")
    engine.cli("network", "create", "front")
    engine.cli("volume", "create", "data")
    engine.cli("create", "--name", "gone", "busybox")
    engine.cli("container", "prune", "-f")
    engine.cli("network", "prune", "-f")
    engine.cli("volume", "prune", "-a", "-f")
    engine.cli("image", "prune", "-f")
    messages = told(engine, since)
    assert actions(messages) == [
        "image tag", "image save", "image untag", "network create", "volume create", "container create",
        "container destroy", "container prune", "network destroy", "network prune", "volume destroy", "volume prune",
        "image prune",
    ]  # fmt: skip
    assert messages[0]["Actor"]["Attributes"]["name"] == "other:1"
    pruned = [message["Actor"] for message in messages if message["Action"] == "prune"]
    assert all(actor["ID"] == "" and actor["Attributes"]["reclaimed"].isdecimal() for actor in pruned)
    assert last(messages, "create")["name"] == "gone"


def test_filters(engine: Engine) -> None:
    """EVT-04: by container, image, label, scope, type, event, network, volume; several values are either, several
    keys all; health_status and exec_create stand for each of theirs."""
    since = time.time()
    probe = ("--health-cmd", "true", "--health-interval", "100ms")
    engine.cli("run", "-d", "--name", "one", "-l", "team=a", *probe, "-v", "data:/data", "busybox", "sleep", "1000")
    engine.cli("run", "-d", "--name", "two", "-l", "team=b", "busybox", "sleep", "1000")
    engine.wait_for(lambda: engine.json("/containers/one/json")["State"]["Health"]["Status"] == "healthy")
    engine.cli("exec", "two", "true")
    ids = {name: engine.json(f"/containers/{name}/json")["Id"] for name in ("one", "two")}

    def actors(**filters: str | list[str]) -> set[str]:
        return {message["Actor"]["ID"] for message in told(engine, since, **filters)}

    assert actors(container="one") == {ids["one"]}
    assert actors(container=ids["two"][:12]) == {ids["two"]}
    assert actors(container=["one", "two"]) == set(ids.values())
    assert actors(label="team=a") == actors(label=["team", "team=a"]) == {ids["one"]}
    assert actors(image="busybox", type="container") == set(ids.values())
    assert actors(image="other") == set()
    assert actors(volume="data") == {"data"}
    assert {message["Type"] for message in told(engine, since, network="bridge")} == {"network"}
    assert actors(scope="swarm") == set()
    assert actors(scope="local", container="one") == {ids["one"]}
    assert actions(told(engine, since, event="health_status")) == ["container health_status: healthy"]
    assert actions(told(engine, since, event="exec_create", container="two")) == ["container exec_create: true"]
    assert actions(told(engine, since, event="start", container="two", type="container")) == ["container start"]
    assert actors(container="nobody") == set()


def test_old_clients_get_old_keys(engine: Engine) -> None:
    """EVT-01, API-33: status, id and from before 1.52; image create only since 1.46."""
    since = time.time()
    engine.cli("create", "--name", "one", "busybox")
    newest = told(engine, since, container="one")[0]
    assert set(newest) == {"Type", "Action", "Actor", "scope", "time", "timeNano"}
    for version in ("/v1.24", "/v1.51"):
        old = told(engine, since, version, container="one")[0]
        assert (old["status"], old["id"], old["from"]) == ("create", newest["Actor"]["ID"], "busybox")
        assert {key: value for key, value in old.items() if key in newest} == newest
    engine.cli("commit", "one", "copy")
    assert "image create" in actions(told(engine, since))
    assert "image create" not in actions(told(engine, since, "/v1.45"))
    engine.cli("rmi", "copy")


def test_impossible_times_are_refused(engine: Engine) -> None:
    """EVT-01: until before since is 400; until alone means the past up to it."""
    status, body = engine.request("GET", "/events?since=200&until=100")
    assert status == 400, body
    assert engine.request("GET", f"/events?since=x{quote('/')}")[0] == 400
    engine.cli("create", "--name", "one", "busybox")
    past = engine.request("GET", f"/events?until={time.time():.9f}")[1].splitlines()
    assert any(json.loads(line)["Action"] == "create" for line in past)


def test_nothing_is_lost_to_a_reader_that_sleeps(engine: Engine) -> None:
    """EVT-02: more events than dockerd keeps, none read until all have happened, and every one arrives."""
    engine.cli("create", "--name", "one", "busybox")
    since = time.time()
    with socket.socket(socket.AF_UNIX) as reader:
        reader.connect(str(engine.socket))
        query = urlencode({"since": f"{since:.9f}", "filters": json.dumps({"event": ["rename"]})})
        reader.sendall(f"GET /events?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        for number in range(600):
            assert engine.request("POST", f"/containers/one/rename?name=one{number}")[0] == 204
            assert engine.request("POST", f"/containers/one{number}/rename?name=one")[0] == 204
        seen = b""
        reader.settimeout(20)
        with contextlib.suppress(TimeoutError):
            while seen.count(b'"Action":"rename"') < 1200:
                chunk = reader.recv(1 << 16)
                assert chunk
                seen += chunk
    assert seen.count(b'"Action":"rename"') == 1200
