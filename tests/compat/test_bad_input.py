"""What clients get wrong: the status, Docker's words, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.engine import Engine

pytestmark = pytest.mark.root
Host = Mapping[str, Any]


def create(engine: Engine, body: object, name: str = "", **headers: str) -> tuple[int, str]:
    status, answer = engine.request("POST", f"/containers/create?name={name}", body, **headers)
    document = json.loads(answer)
    assert status >= 400 or document["Warnings"] is not None, "Warnings is never null"
    return status, document.get("message", document.get("Id", ""))


@pytest.fixture(autouse=True)
def nothing_is_made(engine: Engine) -> Any:
    before = len(engine.json("/volumes")["Volumes"] or ())
    yield
    left = [row["Names"][0] for row in engine.json("/containers/json?all=1")]
    assert [name for name in left if not name.startswith("/ok")] == []
    assert len(engine.json("/volumes")["Volumes"] or ()) == before


def test_an_unknown_image(engine: Engine) -> None:
    """CTR-02: 404 with the words that docker-py and the CLI look for."""
    assert create(engine, {"Image": "nosuch"}) == (404, "No such image: nosuch:latest")


def test_a_slip_is_told_before_an_image_is_pulled_for_it(engine: Engine) -> None:
    """CTR-02: the CLI pulls at 404; and a container that a request names is not the image."""
    for options, words in (
        ({"Memory": 1}, "Minimum memory limit allowed is 6MB"),
        ({"NetworkMode": "container:nosuch"}, "No such container: nosuch"),
        ({"PidMode": "container:nosuch"}, "No such container: nosuch"),
        ({"VolumesFrom": ["nosuch"]}, "No such container: nosuch"),
    ):
        image = "busybox" if "VolumesFrom" in options else "nosuch"
        assert create(engine, {"Image": image, "HostConfig": options}) == (400, words)


@pytest.mark.parametrize("body", [{}, None, {"HostConfig": {"Memory": 1 << 30}}])
def test_nothing_to_make(engine: Engine, body: object) -> None:
    """CTR-01: as an empty body would say."""
    assert create(engine, body, **{"Content-Type": "application/json"})[0] == 400


@pytest.mark.parametrize("name", ["-bad", "b@d", "a/b", "x"])
def test_a_bad_name(engine: Engine, name: str) -> None:
    """CTR-03."""
    status, message = create(engine, {"Image": "busybox"}, name)
    assert status == 400
    assert f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed" in message


def test_a_taken_name(engine: Engine) -> None:
    """CTR-03: told who has it; a leading slash makes no difference."""
    _, container_id = create(engine, {"Image": "busybox"}, "ok-one")
    for name in ("ok-one", "/ok-one"):
        status, message = create(engine, {"Image": "busybox"}, name)
        assert status == 409
        assert f'Conflict. The container name "/ok-one" is already in use by container "{container_id}"' in message


def test_bad_json_and_a_wrong_content_type(engine: Engine) -> None:
    """CTR-01, API: 400 for each."""
    kind = {"Content-Type": "application/json"}
    assert create(engine, b"{no json", **kind)[0] == 400
    assert create(engine, b"[1]", **kind)[0] == 400
    assert create(engine, b'{"Image": 5}', **kind)[0] == 400
    status, message = create(engine, b'{"Image": "busybox"}', **{"Content-Type": "text/plain"})
    assert status == 400
    assert "must be 'application/json'" in message or "unsupported media type" in message.lower()


@pytest.mark.parametrize(
    ("body", "host", "words"),
    [
        ({}, {"AutoRemove": True, "RestartPolicy": {"Name": "always"}}, "can't create 'AutoRemove' container"),
        ({}, {"RestartPolicy": {"Name": "sometimes"}}, "restart policy"),
        ({}, {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 2}}, "maximum retry count"),
        ({"WorkingDir": "relative"}, {}, "the working directory 'relative' is invalid"),
        ({"StopSignal": "NOSUCH"}, {}, "invalid signal: NOSUCH"),
        ({"Env": ["=x"]}, {}, "invalid environment variable: =x"),
        ({"Healthcheck": {"Test": ["CMD", "x"], "Interval": 500_000}}, {}, "Interval in Healthcheck"),
        ({"Healthcheck": {"Test": ["CMD", "x"], "Retries": -1}}, {}, "Retries in Healthcheck"),
        ({"ExposedPorts": {"99999/tcp": {}}}, {}, "invalid"),
        ({}, {"PortBindings": {"80/tcp": [{"HostPort": "99999"}]}}, "invalid"),
        ({}, {"CapAdd": ["NO_SUCH"]}, "NO_SUCH"),
        ({}, {"Annotations": {"": "x"}}, "annotation"),
        ({}, {"Memory": 1024}, "Minimum memory limit allowed is 6MB"),
        ({}, {"NanoCpus": 10**9, "CpuQuota": 1000}, "CPU"),
        ({}, {"Binds": ["relative"]}, "invalid"),
        ({}, {"Binds": ["/a:/x", "/b:/x"]}, "Duplicate mount point: /x"),
        ({}, {"Mounts": [{"Type": "nosuch", "Target": "/x"}]}, "mount type unknown"),
        ({}, {"Mounts": [{"Type": "bind", "Source": "/nosuch", "Target": "x"}]}, "invalid mount path"),
        ({}, {"NetworkMode": "host", "PortBindings": {"x/tcp": []}}, "invalid"),
        ({"Hostname": "h" * 65}, {}, ""),
        ({"Hostname": "named"}, {"UTSMode": "host"}, "conflicting options: hostname and the UTS mode"),
        ({}, {"Runtime": "nosuch"}, "unknown or invalid runtime name: nosuch"),
        ({}, {"LogConfig": {"Type": "nosuch"}}, "nosuch"),
        ({}, {"LogConfig": {"Type": "json-file", "Config": {"nosuch": "1"}}}, "unknown log opt 'nosuch'"),
        ({}, {"OomScoreAdj": 5000}, "Invalid value 5000, range for oom score adj is [-1000, 1000]"),
        ({}, {"ShmSize": -1}, "SHM size can not be less than 0"),
        ({}, {"IpcMode": "nosuch"}, "IPC mode"),
        ({}, {"PidMode": "nosuch"}, "PID mode"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(engine: Engine, body: Host, host: Host, words: str) -> None:
    """CTR-07: 400, and the reason."""
    status, message = create(engine, {"Image": "busybox", **body, "HostConfig": host})
    assert status == 400, message
    assert words.lower() in message.lower()


def test_neither_command_nor_entry_point(engine: Engine) -> None:
    """CTR-05."""
    status, message = create(engine, {"Image": "busybox", "Entrypoint": [""]})
    assert (status, message) == (400, "no command specified") or "No command specified" in message


def test_a_donor_that_does_not_run(engine: Engine) -> None:
    """CTR-38, NET-20: 409 at the start, 400 when there is none: clients take 404 for the image."""
    create(engine, {"Image": "busybox"}, "ok-donor")
    create(engine, {"Image": "busybox", "HostConfig": {"NetworkMode": "container:ok-donor"}}, "ok-guest")
    status, body = engine.request("POST", "/containers/ok-guest/start")
    assert status == 409, body
    assert b"non running container" in body or b"is not running" in body
    status, _ = create(engine, {"Image": "busybox", "HostConfig": {"NetworkMode": "container:nosuch"}})
    assert status == 400


def test_an_unknown_network(engine: Engine) -> None:
    """NET-03: the start fails with 404, the container stays as it was."""
    create(engine, {"Image": "busybox", "HostConfig": {"NetworkMode": "nosuch"}}, "ok-lost")
    status, body = engine.request("POST", "/containers/ok-lost/start")
    assert (status, b"network nosuch not found" in body) == (404, True)
    assert engine.json("/containers/ok-lost/json")["State"]["Status"] == "created"


def test_verbs_on_what_does_not_exist(engine: Engine) -> None:
    """CTR-04: 404 `No such container` from every one."""
    for method, path in [
        ("GET", "json"), ("POST", "start"), ("POST", "stop"), ("POST", "kill"), ("POST", "restart"), ("POST", "pause"),
        ("POST", "unpause"), ("POST", "wait"), ("POST", "resize?h=1&w=1"), ("POST", "attach"), ("GET", "top"),
        ("GET", "logs?stdout=1"), ("GET", "stats"), ("GET", "changes"), ("GET", "export"), ("POST", "rename?name=y"),
        ("HEAD", "archive?path=/"), ("GET", "archive?path=/"),
    ]:  # fmt: skip
        status, body = engine.request(method, f"/containers/nosuch/{path}")
        assert status == 404, path
        assert method == "HEAD" or json.loads(body)["message"] == "No such container: nosuch", path
    assert engine.request("DELETE", "/containers/nosuch")[0] == 404
    assert engine.request("POST", "/containers/nosuch/exec", {"Cmd": ["x"]})[0] == 404
    assert engine.request("GET", "/exec/nosuch/json")[0] == 404
    assert engine.request("POST", "/exec/nosuch/start", {})[0] == 404


def test_verbs_in_the_wrong_state(engine: Engine) -> None:
    """CTR-08, CTR-10..15: 304 for what is so already, 409 for what cannot be now."""
    create(engine, {"Image": "busybox", "Cmd": ["sleep", "1000"]}, "ok-one")
    for verb, status in (("stop", 304), ("kill", 409), ("pause", 409), ("resize?h=1&w=1", 409)):
        assert engine.request("POST", f"/containers/ok-one/{verb}")[0] == status, verb
    assert engine.request("GET", "/containers/ok-one/top")[0] == 409
    assert engine.request("POST", "/containers/ok-one/start", {"Binds": []})[0] == 400
    assert engine.request("POST", "/containers/ok-one/start")[0] == 204
    assert engine.request("POST", "/containers/ok-one/start")[0] == 304
    assert engine.request("DELETE", "/containers/ok-one")[0] == 409
    assert engine.request("POST", "/containers/ok-one/kill?signal=NOSUCH")[0] == 400
    assert engine.request("POST", "/containers/ok-one/exec", {"Cmd": []})[0] == 400
    assert engine.request("POST", "/containers/ok-one/pause")[0] == 204
    assert engine.request("POST", "/containers/ok-one/start")[0] == 409


def test_numbers_that_are_longer_than_any_machine_needs(engine: Engine) -> None:
    """CTR-16, CTR-21, CTR-11: refused or taken for what they are, at once, whatever counting them out would take."""
    create(engine, {"Image": "busybox", "Cmd": ["true"]}, "ok-digits")
    digits = "9" * 5000
    for method, path, expected in (
        ("POST", f"/containers/ok-digits/kill?signal={digits}", 400),
        ("POST", f"/containers/ok-digits/stop?t={digits}", 400),
        ("POST", f"/containers/ok-digits/resize?h={digits}&w=1", 400),
        ("POST", "/containers/ok-digits/resize?h=1", 400),
        ("GET", f"/containers/ok-digits/logs?stdout=1&tail={digits}", 200),
        ("GET", listed(publish="1-99999999999"), 400),
        ("GET", listed(expose="80-70000"), 400),
        ("GET", listed(publish="90-80"), 400),
        ("GET", listed(publish="1-65535/udp"), 200),
        ("GET", listed(exited=digits), 400),
        ("GET", listed(exited="1_0"), 400),
        ("POST", "/containers/create?platform=linux/amd64/v9999999999", 404),
        ("GET", f"/v1.{digits}/info", 404),
    ):
        body = {"Image": "busybox"} if "create" in path else None
        assert engine.request(method, path, body)[0] == expected, path[:80]
    for user, words in (
        ("-1", "uids and gids must be in range 0-2147483647"),
        ("1:2147483648", "uids and gids must be in range 0-2147483647"),
        ("\u00b2", "unable to find user \u00b2: no matching entries in passwd file"),
    ):
        create(engine, {"Image": "busybox", "User": user}, "ok-user")
        status, body = engine.request("POST", "/containers/ok-user/start")
        assert (status, json.loads(body)["message"]) == (500, words)
        engine.request("DELETE", "/containers/ok-user")


def test_what_no_kernel_call_can_take(engine: Engine) -> None:
    """CTR-07, NET-01: zero bytes and names that no interface can have, before anything is made of them."""
    for path, body, words in (
        ("/containers/create", {"Image": "busybox", "Cmd": ["a\0b"]}, "zero byte"),
        ("/containers/create", {"Image": "busybox", "Labels": {"a\0b": "c"}}, "zero byte"),
        ("/containers/create", {"Image": "busybox", "HostConfig": {"Binds": ["/a\0b:/x"]}}, "zero byte"),
        ("/containers/create", {"Image": "busybox", "MacAddress": "xx"}, "invalid MAC address"),
        ("/containers/create", {"Image": "busybox", "HostConfig": {"Dns": ["here"]}}, "unable to parse IP"),
        ("/containers/create", {"Image": "busybox", "HostConfig": {"ConsoleSize": [70000, 1]}}, "out of range"),
        ("/networks/create", {"Name": "a\0b"}, "zero byte"),
        ("/networks/create", bridged('a"b'), "invalid bridge name"),
        ("/networks/create", bridged("br*"), "invalid bridge name"),
        ("/networks/create", bridged(".."), "invalid bridge name"),
        ("/networks/create", bridged("b" * 16), "invalid bridge name"),
        ("/networks/create", {"Name": "ok-net", "Options": {MTU: "99999999999"}}, "value out of range"),
        ("/volumes/create", {"Name": "ok-volume", "Labels": {"a": "\0"}}, "zero byte"),
    ):
        status, answer = engine.request("POST", path, body)
        assert (status, words in json.loads(answer)["message"]) == (400, True), answer
    assert create(engine, {"Image": "busybox", "Cmd": ["printf", "\\u0000"]}, "ok-u")[0] == 201, "no zero byte"


def test_starts_that_fail_for_what_is_too_long(engine: Engine) -> None:
    """RES-05, CTR-41, SEC-03: told in words, whatever it was."""
    for host, words in (
        ({"Binds": [f"/{'a/' * 5000}:/x"]}, "file name too long"),
        ({"SecurityOpt": ["seccomp=" + "[" * 100000]}, "decoding seccomp profile failed"),
        ({"DeviceCgroupRules": [f"c {'9' * 5000}:1 r"]}, "invalid major value in device cgroup rule format"),
    ):
        create(engine, {"Image": "busybox", "HostConfig": host}, "ok-long")
        status, answer = engine.request("POST", "/containers/ok-long/start")
        assert (status >= 400, words in json.loads(answer)["message"]) == (True, True), answer[-300:]
        engine.request("DELETE", "/containers/ok-long")
    log = {"Type": "json-file", "Config": {"max-size": "9" * 5000, "max-file": "2"}}
    assert create(engine, {"Image": "busybox", "HostConfig": {"LogConfig": log}}, "ok-log")[0] == 201
    log = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "9" * 5000}}
    status, message = create(engine, {"Image": "busybox", "HostConfig": {"LogConfig": log}})
    assert (status, "value out of range" in message) == (400, True)


MTU = "com.docker.network.driver.mtu"


def bridged(name: str) -> dict[str, Any]:
    return {"Name": "ok-net", "Options": {"com.docker.network.bridge.name": name}}


def test_who_waits_longer_than_anybody_lives_waits_for_ever(engine: Engine) -> None:
    """CTR-10: a timeout that no clock can tell is none."""
    script = 'trap "exit 3" TERM; echo on; while :; do sleep 0.05; done'
    create(engine, {"Image": "busybox", "Cmd": ["sh", "-c", script], "StopTimeout": 2**40}, "ok-patient")
    for times, query in ((1, ""), (2, f"?t={2**62}")):
        assert engine.request("POST", "/containers/ok-patient/start")[0] == 204
        engine.wait_for(lambda n=times: engine.out("logs", "ok-patient").split() == ["on"] * n)
        assert engine.request("POST", f"/containers/ok-patient/stop{query}")[0] == 204
        assert engine.json("/containers/ok-patient/json")["State"]["ExitCode"] == 3


def listed(**filters: str) -> str:
    told = json.dumps({name: [value] for name, value in filters.items()})
    return f"/containers/json?all=1&filters={quote(told)}"


def test_an_ambiguous_beginning_of_an_id(engine: Engine) -> None:
    """CTR-04: 400 when two containers begin so."""
    ids: list[str] = []
    while len({container_id[0] for container_id in ids}) == len(ids):
        ids.append(create(engine, {"Image": "busybox"}, f"ok-{len(ids)}")[1])
    first = next(letter for letter in ids[-1][:1])
    status, body = engine.request("GET", f"/containers/{first}/json")
    assert status == 400, body


def test_an_unknown_path_and_a_version_from_the_future(engine: Engine) -> None:
    """API: 404 `page not found`, 400 for versions too new or too old."""
    status, body = engine.request("GET", "/nosuch")
    assert (status, json.loads(body)["message"]) == (404, "page not found")
    assert engine.request("GET", "/v9.99/info")[0] == 400
    assert engine.request("GET", "/v1.1/info")[0] == 400


def test_what_is_not_there_says_so(engine: Engine) -> None:
    """The issue's rule: 501 with a message, never a silent success."""
    for method, path, words in (
        ("GET", "/swarm", "not implemented"),
        ("GET", "/plugins", "not implemented"),
        ("POST", "/containers/ok/checkpoints", "This experimental feature is disabled by default"),
    ):
        status, body = engine.request(method, path)
        assert status == 501, path
        assert words in json.loads(body)["message"]


def test_leaving_a_swarm_that_is_none(engine: Engine) -> None:
    """SWM: 503 in moby's words, which clients that tidy up take for done."""
    status, body = engine.request("POST", "/swarm/leave?force=1")
    assert (status, json.loads(body)) == (503, {"message": "This node is not part of a swarm"})
