"""What can not be asked of networks and volumes: Docker's codes and words, and nothing half made."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.engine import Engine

pytestmark = pytest.mark.root


def ask(engine: Engine, path: str, body: dict[str, Any]) -> tuple[int, str]:
    status, answer = engine.request("POST", path, body)
    return status, json.loads(answer).get("message", "") if answer else ""


def test_a_small_subnet_is_exhausted_and_every_address_comes_back(engine: Engine) -> None:
    """NET-11: a /30 has room for one container beside its gateway."""
    engine.cli("network", "create", "--subnet", "10.91.0.0/30", "small")
    for _ in range(3):
        engine.cli("run", "-d", "--name", "one", "--network", "small", "busybox", "sleep", "1000")
        engine.cli("create", "--name", "two", "--network", "small", "busybox", "sleep", "1000")
        status, words = ask(engine, "/containers/two/start", {})
        assert (status >= 400, "no available" in words) == (True, True), (status, words)
        assert len(engine.json("/networks/small")["Containers"]) == 1
        engine.cli("rm", "-f", "one", "two")


@pytest.mark.parametrize("subnet", ["10.92.0.0/33", "10.92.0/24", "nonsense", "10.92.0.1/24", ""])
def test_subnets_that_are_none(engine: Engine, subnet: str) -> None:
    """NET-01, NET-10."""
    body = {"Name": "wrong", "IPAM": {"Config": [{"Subnet": subnet}]}}
    status, words = ask(engine, "/networks/create", body)
    assert (status, words.startswith("invalid network config:")) == (400, True)
    assert engine.request("GET", "/networks/wrong")[0] == 404


def test_when_every_pool_is_in_use_the_next_network_is_refused(engine: Engine) -> None:
    """NET-10: and is made once a subnet has come back."""
    made = []
    while (answer := ask(engine, "/networks/create", {"Name": f"pool-{len(made)}"}))[0] == 201 and len(made) < 100:
        made.append(f"pool-{len(made)}")
    assert answer == (400, "all predefined address pools have been fully subnetted") and len(made) > 10
    assert engine.request("GET", f"/networks/pool-{len(made)}")[0] == 404
    assert engine.in_namespace("ip", "-o", "link").stdout.count(": br-") == len(made)
    assert engine.request("DELETE", "/networks/pool-3")[0] == 204
    assert ask(engine, "/networks/create", {"Name": "next"})[0] == 201
    for name in (*made[:3], *made[4:], "next"):
        assert engine.request("DELETE", f"/networks/{name}")[0] == 204


def test_names_without_end(engine: Engine) -> None:
    """NET-01, VOL-01: taken or refused, and never a mark in the kernel that could not be removed."""
    links = engine.in_namespace("ip", "-o", "link").stdout.count(": br-")
    name = "n" * 10_000
    status, _ = ask(engine, "/networks/create", {"Name": name})
    if status == 201:
        assert engine.request("DELETE", f"/networks/{name}")[0] == 204
    else:
        assert status == 400
    status, words = ask(engine, "/volumes/create", {"Name": name})
    assert words.endswith("file name too long")
    assert status == 500
    assert engine.in_namespace("ip", "-o", "link").stdout.count(": br-") == links
    assert name not in {volume["Name"] for volume in engine.json("/volumes")["Volumes"] or ()}


def test_connections_that_can_not_be(engine: Engine) -> None:
    """NET-05: twice, to the host's network, to none, of nobody."""
    engine.cli("network", "create", "yard")
    engine.cli("run", "-d", "--name", "web", "--network", "yard", "busybox", "sleep", "1000")
    there = {"Container": "web"}
    assert ask(engine, "/networks/yard/connect", there)[0] == 403
    assert ask(engine, "/networks/host/connect", there)[0] == 400
    assert ask(engine, "/networks/nowhere/connect", there) == (404, "network nowhere not found")
    assert ask(engine, "/networks/yard/connect", {"Container": "nobody"}) == (404, "No such container: nobody")
    assert ask(engine, "/networks/yard/disconnect", {"Container": "nobody"})[0] == 404
    assert engine.request("DELETE", "/networks/yard")[0] == 403
    wanted = {**there, "EndpointConfig": {"IPAMConfig": {"IPv4Address": "203.0.113.9"}}}
    engine.cli("network", "create", "--subnet", "10.93.0.0/24", "plan")
    status, words = ask(engine, "/networks/plan/connect", wanted)
    assert (status, "203.0.113.9" in words) == (400, True)
    assert list(engine.json("/containers/web/json")["NetworkSettings"]["Networks"]) == ["yard"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": "nfs", "o": "addr=no-such-host.invalid", "device": ":/srv"}, "no such host"),
        ({"type": "none", "o": "bind", "device": "/no/such/folder"}, "no such file or directory"),
        ({"type": "nonsense", "device": "nothing"}, "no such device"),
    ],
)
def test_volumes_that_can_not_be_mounted_fail_the_start_and_leave_nothing(
    engine: Engine, options: dict[str, str], words: str
) -> None:
    """VOL-07: the volume is made, as in Docker; the container that wants it is not started."""
    assert ask(engine, "/volumes/create", {"Name": "odd", "DriverOpts": options})[0] == 201
    engine.cli("create", "--name", "web", "-v", "odd:/data", "busybox", "sleep", "1000")
    status, told = ask(engine, "/containers/web/start", {})
    assert (status >= 400, words in told) == (True, True), (status, told)
    assert engine.json("/containers/web/json")["State"]["Status"] == "created"
    assert str(engine.data_root / "volumes") not in open("/proc/self/mountinfo").read()
    engine.cli("rm", "web")
    engine.cli("volume", "rm", "odd")


@pytest.mark.parametrize("name", ["docker0", "br-other"])
def test_a_bridge_belongs_to_one_network(engine: Engine, name: str) -> None:
    """NET-09: else the removal of one would take the other's; the default network's too."""
    options = {"Options": {"com.docker.network.bridge.name": name}}
    if name != "docker0":
        assert ask(engine, "/networks/create", {"Name": "first", **options})[0] == 201
    status, words = ask(engine, "/networks/create", {"Name": "second", **options})
    assert (status, words.endswith("networks have same bridge name")) == (403, True)
    assert engine.request("GET", "/networks/second")[0] == 404
    assert engine.out("run", "--rm", "busybox", "cat", "/sys/class/net/eth0/operstate") == "up"


def test_a_bridge_has_one_subnet_of_a_family(engine: Engine) -> None:
    """NET-01."""
    body = {"Name": "two", "IPAM": {"Config": [{"Subnet": "10.93.0.0/24"}, {"Subnet": "10.94.0.0/24"}]}}
    assert ask(engine, "/networks/create", body) == (403, "bridge driver doesn't support multiple subnets")
