"""The corners of a container's rows, through the raw API: statuses, words, shapes, defaults."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.engine import Engine

pytestmark = pytest.mark.root
ZERO_TIME = "0001-01-01T00:00:00Z"


def ask(engine: Engine, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """The status and the JSON of an answer; the words alone of a refusal; None without a body."""
    status, answer = engine.request(method, path, body, **headers)
    told = json.loads(answer) if answer.strip() else None
    return status, told["message"] if status >= 400 and isinstance(told, dict) else told


def create(engine: Engine, name: str = "", prefix: str = "", **config: Any) -> tuple[int, Any]:
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], **config}
    return ask(engine, "POST", f"{prefix}/containers/create" + (f"?name={quote(name)}" if name else ""), body)


def listed(engine: Engine, **filters: list[str]) -> list[str]:
    rows = engine.json(f"/containers/json?all=1&filters={quote(json.dumps(filters))}")
    return sorted(name.removeprefix("/") for row in rows for name in row["Names"])


def status_of(engine: Engine, name: str) -> str:
    return str(engine.json(f"/containers/{name}/json")["State"]["Status"])


def test_create_answers_with_an_id_and_warnings(engine: Engine) -> None:
    """CTR-01: 201, warnings never null; no JSON content type, no body and bad JSON are 400 and make nothing."""
    status, answer = create(engine)
    assert (status, answer["Warnings"], len(answer["Id"])) == (201, [], 64)
    path = "/containers/create"
    status, words = ask(engine, "POST", path, b"{}", **{"Content-Type": "text/plain"})
    assert (status, words) == (400, "unsupported Content-Type header (text/plain): must be 'application/json'")
    assert ask(engine, "POST", path, b"{", **{"Content-Type": "application/json"})[0] == 400
    assert ask(engine, "POST", path, b"", **{"Content-Type": "application/json"})[0] == 400
    assert ask(engine, "POST", path, {}, **{"Content-Type": "application/json"})[0] >= 400
    assert len(engine.json("/containers/json?all=1")) == 1


def test_an_unknown_image_is_told_in_the_words_clients_know(engine: Engine) -> None:
    """CTR-02, CTR-05: 404; neither Cmd nor Entrypoint is 400."""
    status, words = create(engine, Image="nothing-here:1")
    assert (status, words) == (404, "No such image: nothing-here:1")
    engine.cli("import", "-", "bare", data="")
    assert create(engine, Image="bare", Cmd=None) == (400, "no command specified")


def test_names_are_checked_and_taken_once(engine: Engine) -> None:
    """CTR-03, CTR-29: bad ones 400, taken ones 409 in Docker's words; a generated one is two words; a rename too."""
    status, made = create(engine, "/web")
    assert status == 201
    for bad in ("a", "-a", "a/b", "a b", "/"):
        status, words = create(engine, bad)
        assert status == 400
        assert words == f"Invalid container name ({bad}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    taken = (
        f'Conflict. The container name "/web" is already in use by container "{made["Id"]}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
    assert create(engine, "web") == (409, taken)
    _, other = create(engine)
    name = engine.json(f"/containers/{other['Id']}/json")["Name"]
    assert re.fullmatch(r"/[a-z]+_[a-z]+", name)
    assert ask(engine, "POST", f"/containers/{other['Id']}/rename?name=web") == (409, taken)
    assert ask(engine, "POST", "/containers/web/rename?name=") == (400, "Neither old nor new names may be empty")
    same = "Renaming a container with the same name as its current name"
    assert ask(engine, "POST", "/containers/web/rename?name=/web") == (400, same)
    assert ask(engine, "POST", "/containers/web/rename?name=shop")[0] == 204
    assert ask(engine, "GET", "/containers/web/json") == (404, "No such container: web")
    assert create(engine, "web")[0] == 201


def test_a_container_is_found_by_id_name_and_prefix(engine: Engine) -> None:
    """CTR-04: a prefix that fits several is 400."""
    ids = [create(engine)[1]["Id"] for _ in range(17)]
    assert engine.json(f"/containers/{ids[0][:12]}/json")["Id"] == ids[0]
    first = next(letter for letter in "0123456789abcdef" if sum(i.startswith(letter) for i in ids) > 1)
    status, words = ask(engine, "GET", f"/containers/{first}/json")
    assert status == 400, words
    assert "multiple IDs found with provided prefix" in words


def test_defaults_are_dockers(engine: Engine) -> None:
    """CTR-06, CTR-22: what inspect shows of a container nobody said anything about."""
    status, made = create(engine, "plain")
    shown = engine.json("/containers/plain/json")
    host, config = shown["HostConfig"], shown["Config"]
    assert config["Hostname"] == made["Id"][:12]
    assert (host["ShmSize"], host["IpcMode"], host["NetworkMode"]) == (64 << 20, "private", "bridge")
    assert host["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert host["LogConfig"]["Type"] == "json-file"
    assert host["CgroupnsMode"] in ("host", "private")
    assert (shown["Path"], shown["Args"], shown["Name"]) == ("sleep", ["1000"], "/plain")
    assert (shown["RestartCount"], shown["Platform"], shown["ExecIDs"], shown["Mounts"]) == (0, "linux", None, [])
    assert (shown["Driver"], shown["Image"][:7]) == ("overlay2", "sha256:")
    state = shown["State"]
    assert (state["Status"], state["Running"], state["Pid"], state["ExitCode"]) == ("created", False, 0, 0)
    assert (state["StartedAt"], state["FinishedAt"]) == (ZERO_TIME, ZERO_TIME)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}Z", shown["Created"])
    assert shown["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] == ""
    status, _ = create(engine, "old", prefix="/v1.39")
    assert engine.json("/containers/old/json")["HostConfig"]["IpcMode"] == "shareable"
    assert create(engine, Hostname="x" * 65)[0] == 400


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"HostConfig": {"AutoRemove": True, "RestartPolicy": {"Name": "always"}}},
         "can't create 'AutoRemove' container with restart policy"),
        ({"WorkingDir": "relative"}, "the working directory 'relative' is invalid, it needs to be an absolute path"),
        ({"StopSignal": "NOPE"}, "invalid signal: NOPE"),
        ({"Env": ["=x"]}, "invalid environment variable: =x"),
        ({"Healthcheck": {"Interval": 1}}, "Interval in Healthcheck cannot be less than 1ms"),
        ({"Healthcheck": {"Retries": -1}}, "Retries in Healthcheck cannot be negative"),
        ({"HostConfig": {"CapAdd": ["CAP_NOPE"]}}, 'invalid CapAdd: unknown capability: "CAP_NOPE"'),
        ({"HostConfig": {"Annotations": {"": "x"}}},
         "invalid Annotations: the empty string is not permitted as an annotation key"),
        ({"HostConfig": {"RestartPolicy": {"Name": "odd"}}},
         "invalid restart policy: unknown policy 'odd'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"),
    ],
)  # fmt: skip
def test_illegal_configurations_are_refused(engine: Engine, config: dict[str, Any], words: str) -> None:
    """CTR-07: in Docker's words, and nothing is made."""
    assert create(engine, **config) == (400, words)
    assert engine.json("/containers/json?all=1") == []


def test_a_start_and_its_refusals(engine: Engine) -> None:
    """CTR-08: 204, then 304 with nothing in it; paused 409, a body 400, unknown 404."""
    create(engine, "one")
    assert engine.request("POST", "/containers/one/start") == (204, b"")
    assert engine.request("POST", "/containers/one/start") == (304, b"")
    assert ask(engine, "POST", "/containers/one/pause")[0] == 204
    words = "cannot start a paused container, try unpause instead"
    assert ask(engine, "POST", "/containers/one/start") == (409, words)
    status, words = ask(engine, "POST", "/containers/one/start", {"Binds": ["/a:/b"]})
    assert (status, "non-empty request body" in words) == (400, True)
    assert ask(engine, "POST", "/containers/nobody/start") == (404, "No such container: nobody")
    create(engine, "bad", Cmd=["nothing-here"])
    status, words = ask(engine, "POST", "/containers/bad/start")
    assert (status, "nothing-here" in words) == (400, True)
    state = engine.json("/containers/bad/json")["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", 127)
    assert "nothing-here" in state["Error"]


def test_checkpoints_are_refused_as_without_experimental_mode(engine: Engine) -> None:
    """CTR-45: 501 in Docker's words, and 400 for a start from one."""
    create(engine, "one")
    words = (
        "This experimental feature is disabled by default. "
        "Start the Docker daemon in experimental mode in order to enable it."
    )
    assert ask(engine, "GET", "/containers/one/checkpoints") == (501, words)
    assert ask(engine, "POST", "/containers/one/checkpoints", {"CheckpointID": "x"}) == (501, words)
    assert ask(engine, "DELETE", "/containers/one/checkpoints/x") == (501, words)
    start = ask(engine, "POST", "/containers/one/start?checkpoint=x")
    assert start == (400, "checkpoint is only supported in experimental mode")


def test_stop_kill_and_pause_say_what_they_cannot(engine: Engine) -> None:
    """CTR-10, CTR-11, CTR-13: already stopped 304; not running 409; bad signals 400; unpause without pause 500."""
    status, made = create(engine, "one")
    container = made["Id"]
    assert engine.request("POST", "/containers/one/stop") == (304, b"")
    not_running = f"container {container} is not running"
    assert ask(engine, "POST", "/containers/one/kill") == (409, f"cannot kill container: one: {not_running}")
    assert ask(engine, "POST", "/containers/one/pause") == (409, not_running)
    engine.cli("start", "one")
    assert ask(engine, "POST", "/containers/one/kill?signal=NOPE") == (400, "invalid signal: NOPE")
    assert ask(engine, "POST", "/containers/one/unpause") == (500, f"Container {container} is not paused")
    assert ask(engine, "POST", "/containers/one/pause")[0] == 204
    assert ask(engine, "POST", "/containers/one/pause") == (409, f"container {container} is already paused")
    assert engine.request("POST", "/containers/one/kill?signal=9")[0] == 204  # thawed to receive it
    assert status_of(engine, "one") == "exited"
    assert engine.json("/containers/one/json")["State"]["ExitCode"] == 137
    assert ask(engine, "POST", "/containers/one/stop?t=x")[0] == 400


def test_a_stop_goes_on_when_its_client_leaves(engine: Engine) -> None:
    """CTR-10."""
    create(engine, "deaf", Cmd=["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"])
    engine.cli("start", "deaf")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(engine.socket))
        client.sendall(b"POST /containers/deaf/stop?t=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        engine.wait_for(lambda: "kill" in events(engine, "deaf"))
    engine.wait_for(lambda: status_of(engine, "deaf") == "exited")


def events(engine: Engine, name: str) -> list[str]:
    container = engine.json(f"/containers/{name}/json")["Id"]
    query = f"since=1&until={time.time():.9f}&filters={quote(json.dumps({'container': [container]}))}"
    return [json.loads(line)["Action"] for line in engine.request("GET", f"/events?{query}")[1].splitlines()]


@contextmanager
def waiting(engine: Engine, path: str) -> Iterator[Any]:
    """A wait whose head has come; what is given reads the rest."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(engine.socket))
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += client.recv(4096)
        assert seen.startswith(b"HTTP/1.1 200")

        def answer() -> dict[str, Any]:
            data = seen
            while b"}\n" not in data:
                data += client.recv(4096)
            found: dict[str, Any] = json.loads(data[data.index(b"{") : data.rindex(b"}") + 1])
            return found

        yield answer


def test_a_wait_answers_its_head_first(engine: Engine) -> None:
    """CTR-14, CTR-16: registered before the start; next-exit, removed, not-running; anything else is 400."""
    create(engine, "one", Cmd=["sh", "-c", "exit 5"])
    with (
        waiting(engine, "/containers/one/wait?condition=next-exit") as next_exit,
        waiting(engine, "/containers/one/wait?condition=removed") as removed,
    ):
        engine.cli("start", "one")
        assert next_exit()["StatusCode"] == 5
        with waiting(engine, "/containers/one/wait") as not_running:
            assert not_running()["StatusCode"] == 5
        engine.cli("rm", "one")
        assert removed()["StatusCode"] == 5
    create(engine, "two")
    assert ask(engine, "POST", "/containers/two/wait?condition=odd") == (400, 'invalid condition: "odd"')
    assert ask(engine, "POST", "/containers/nobody/wait")[0] == 404


def test_a_removal_and_its_refusals(engine: Engine) -> None:
    """CTR-15: running and paused 409 without force, unknown 404; a crash loop is no way to escape it."""
    create(engine, "one")
    engine.cli("start", "one")
    words = 'cannot remove container "one": container is running: stop the container before removing or force remove'
    assert ask(engine, "DELETE", "/containers/one") == (409, words)
    engine.cli("pause", "one")
    words = 'cannot remove container "one": container is paused and must be unpaused first'
    assert ask(engine, "DELETE", "/containers/one") == (409, words)
    assert ask(engine, "DELETE", "/containers/one?force=1") == (204, None)
    assert ask(engine, "DELETE", "/containers/one?force=1") == (404, "No such container: one")
    for number in range(6):
        create(engine, f"loop{number}", Cmd=["false"], HostConfig={"RestartPolicy": {"Name": "always"}})
        engine.cli("start", f"loop{number}")
    for number in range(6):
        assert ask(engine, "DELETE", f"/containers/loop{number}?force=1") == (204, None)


def test_the_list_and_its_filters(engine: Engine) -> None:
    """CTR-20, CTR-21: newest first, limits, sizes; every filter; unknown keys and values 400."""
    for name, config in (
        ("first", {"Labels": {"team": "a"}, "Cmd": ["sh", "-c", "exit 3"]}),
        ("second", {"Labels": {"team": "b"}, "ExposedPorts": {"80/tcp": {}}}),
        ("third", {"HostConfig": {"Binds": ["data:/data"], "PortBindings": {"81/tcp": [{"HostPort": "8081"}]}},
                   "ExposedPorts": {"81/tcp": {}}}),
        ("fourth", {}),
    ):  # fmt: skip
        assert create(engine, name, **config)[0] == 201
    for name in ("first", "second", "third"):
        engine.cli("start", name)
    engine.cli("wait", "first")
    every = engine.json("/containers/json?all=1")
    assert [row["Names"] for row in every] == [["/fourth"], ["/third"], ["/second"], ["/first"]]
    assert [row["State"] for row in every] == ["created", "running", "running", "exited"]
    assert every[3]["Status"].startswith("Exited (3) ")
    assert every[2]["Status"].startswith("Up ") and every[0]["Status"] == "Created"
    assert [row["Names"][0] for row in engine.json("/containers/json")] == ["/third", "/second"]
    assert [row["Names"][0] for row in engine.json("/containers/json?limit=1")] == ["/fourth"]
    assert {"SizeRw", "SizeRootFs"} <= set(engine.json("/containers/json?size=1")[0])
    assert listed(engine, status=["exited"]) == listed(engine, exited=["3"]) == ["first"]
    assert listed(engine, exited=["0"]) == []
    assert engine.json(f"/containers/json?filters={quote(json.dumps({'exited': ['3']}))}") == []
    assert listed(engine, label=["team"]) == ["first", "second"]
    assert listed(engine, label=["team=a"]) == ["first"]
    assert listed(engine, name=["ir"]) == ["first", "third"]
    assert listed(engine, name=["^/?fo"]) == ["fourth"]
    assert listed(engine, id=[every[0]["Id"][:10]]) == ["fourth"]
    assert listed(engine, before=["second"]) == ["first"]
    assert listed(engine, since=["second"]) == ["fourth", "third"]
    assert listed(engine, volume=["data"]) == listed(engine, volume=["/data"]) == ["third"]
    assert listed(engine, publish=["8081"]) == ["third"]
    assert listed(engine, expose=["80/tcp"]) == ["second"]
    assert listed(engine, expose=["80-81/tcp"]) == ["second", "third"]
    assert listed(engine, network=["bridge"]) == listed(engine, ancestor=["busybox"]) == listed(engine)
    assert listed(engine, ancestor=["nothing"]) == []
    assert listed(engine, health=["none"]) == listed(engine, **{"is-task": ["false"]}) == listed(engine)
    engine.cli("commit", "first", "child")
    assert create(engine, "fifth", Image="child")[0] == 201
    assert "fifth" in listed(engine, ancestor=["busybox"]) and listed(engine, ancestor=["child"]) == ["fifth"]
    for filters, words in (
        ({"odd": ["x"]}, "invalid filter 'odd'"),
        ({"exited": ["x"]}, "invalid filter 'exited=x': strconv.Atoi: parsing \"x\": invalid syntax"),
        ({"status": ["odd"]}, "invalid filter 'status=odd': invalid value for state (odd): must be one of created, "
                              "running, paused, restarting, removing, exited, dead"),
        ({"health": ["odd"]}, "invalid filter 'health=odd': invalid value for health (odd): must be one of none, "
                              "starting, healthy, unhealthy"),
    ):  # fmt: skip
        assert ask(engine, "GET", f"/containers/json?filters={quote(json.dumps(filters))}") == (400, words)
    engine.cli("rm", "fifth")
    engine.cli("rmi", "child")


def test_a_list_of_what_runs_has_what_restarts(engine: Engine) -> None:
    """CTR-20: it counts as running between two runs, as in inspect."""
    engine.cli("run", "-d", "--name", "loops", "--restart", "always", "busybox", "false")
    engine.wait_for(lambda: engine.json("/containers/loops/json")["State"]["Restarting"])
    engine.wait_for(lambda: engine.json("/containers/loops/json")["RestartCount"] > 3)  # seconds between two runs now
    for path in ("/containers/json", "/containers/json?size=1"):
        (row,) = engine.json(path)
        assert (row["Names"], row["State"]) == (["/loops"], "restarting")
        assert row["Status"].startswith("Restarting (1) ")


def test_a_prune_of_everything_ends_well(engine: Engine) -> None:
    """CTR-35, SYS-17: a builder's cache, which is not here, is pruned of nothing."""
    engine.cli("create", "--name", "idle", "busybox")
    engine.cli("tag", "busybox", "kept")
    pruned = engine.out("system", "prune", "-f", "--volumes")
    assert "Deleted Containers:" in pruned
    assert pruned.splitlines()[-1].startswith("Total reclaimed space")
    engine.cli("rmi", "kept")


def test_files_say_what_they_cannot(engine: Engine) -> None:
    """CTR-30, CTR-31, CTR-32, CTR-33: missing paths 404, no directory 400, read-only 400; no changes are null."""
    create(engine, "one", HostConfig={"ReadonlyRootfs": True, "Tmpfs": {"/scratch": ""}})
    tar = {"Content-Type": "application/x-tar"}
    missing = "Could not find the file /nothing in container one"
    for method in ("GET", "PUT"):
        body = b"" if method == "PUT" else None
        assert ask(engine, method, "/containers/one/archive?path=/nothing", body, **tar) == (404, missing)
    assert engine.request("HEAD", "/containers/one/archive?path=/nothing")[0] == 404
    assert ask(engine, "GET", "/containers/one/archive")[0] == 400
    no_directory = ask(engine, "PUT", "/containers/one/archive?path=/etc/passwd", b"", **tar)
    assert no_directory == (400, "extraction point is not a directory")
    assert ask(engine, "PUT", "/containers/one/archive?path=/etc", b"\0" * 1024, **tar) == (
        400, "container rootfs is marked read-only",
    )  # fmt: skip
    assert engine.request("GET", "/containers/one/changes") == (200, b"null\n")
    assert engine.request("GET", "/containers/one/export")[0] == 200


def test_a_read_only_root_has_writable_volumes(engine: Engine) -> None:
    """CTR-42."""
    script = "touch /x 2>/dev/null && exit 1; touch /scratch/x /data/x /dev/shm/x && echo fine"
    run = ("run", "--rm", "--read-only", "--tmpfs", "/scratch", "-v", "data:/data", "busybox", "sh", "-c", script)
    assert engine.out(*run) == "fine"


def test_prunes_exclude_each_other_and_refuse_odd_filters(engine: Engine) -> None:
    """CTR-35: filters, what it won, and 409 for a second one at the same time."""
    for number in range(30):
        create(engine, f"gone{number}", Labels={"keep": "no"})
    create(engine, "kept", Labels={"keep": "yes"})
    answers: list[tuple[int, Any]] = []
    path = "/containers/prune?filters=" + quote(json.dumps({"label!": ["keep=yes"]}))
    threads = [threading.Thread(target=lambda: answers.append(ask(engine, "POST", path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [answer for status, answer in answers if status == 200]
    assert sum(len(answer["ContainersDeleted"] or ()) for answer in won) == 30
    refused = [answer for answer in answers if answer[0] != 200]
    assert refused in ([], [(409, "a prune operation is already running")])
    assert listed(engine) == ["kept"]
    odd = quote(json.dumps({"odd": ["x"]}))
    assert ask(engine, "POST", f"/containers/prune?filters={odd}") == (400, "invalid filter 'odd'")


def test_init_is_the_first_process(engine: Engine) -> None:
    """CTR-37: --init runs the engine's init at /sbin/docker-init, or the start says that there is none."""
    done = engine.cli("run", "--rm", "--init", "busybox", "cat", "/proc/1/cmdline", check=False)
    assert done.stdout.startswith("/sbin/docker-init\0--\0cat") or "docker-init" in done.stderr


def test_annotations_and_labels(engine: Engine) -> None:
    """CTR-46: annotations are in inspect, for clients that know them; labels filter."""
    create(engine, "one", Labels={"a": "b"}, HostConfig={"Annotations": {"org.example": "x"}})
    create(engine, "two", prefix="/v1.42", HostConfig={"Annotations": {"org.example": "x"}})
    assert engine.json("/containers/one/json")["HostConfig"]["Annotations"] == {"org.example": "x"}
    assert not engine.json("/containers/two/json")["HostConfig"].get("Annotations")
    assert listed(engine, label=["a=b"]) == ["one"]


def test_a_platform_that_does_not_match(engine: Engine) -> None:
    """CTR-47: asked for and not here 404; not asked for a warning; nonsense 400; before 1.41 nobody asked."""
    body = {"Image": "busybox", "Cmd": ["true"]}
    status, words = ask(engine, "POST", "/containers/create?platform=linux/s390x", body)
    assert status == 404
    assert "was found but its platform" in words and "does not match the specified platform (linux/s390x)" in words
    assert ask(engine, "POST", "/containers/create?platform=a/b/c/d", body)[0] == 400
    assert ask(engine, "POST", "/v1.40/containers/create?platform=linux/s390x", body)[0] == 201
    engine.cli("import", "--platform", "linux/s390x", "-", "foreign", data="")
    status, made = create(engine, Image="foreign")
    assert status == 201
    assert len(made["Warnings"]) == 1
    assert made["Warnings"][0].startswith(
        "The requested image's platform (linux/s390x) does not match the detected host platform (linux/"
    )
    assert create(engine)[1]["Warnings"] == []
