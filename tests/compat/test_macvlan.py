"""Containers on the wire itself: macvlan on an interface of the host, and ipvlan where the kernel has it."""

from __future__ import annotations

import json

import pytest

from tests.support.engine import Engine
from tests.support.images import BUSYBOX
from tests.support.outside import HOST_ADDRESS, OUTSIDE_ADDRESS, Neighbour, neighbour

pytestmark = pytest.mark.root
SERVE = "mkdir /www; echo page of $(hostname) > /www/index.html; httpd -f -h /www"
ADDRESS = "198.51.100.20"
URL = f"http://{ADDRESS}/"


def on_the_wire(engine: Engine, *options: str) -> None:
    """A macvlan network on the cable to the neighbour, and a web server on it."""
    wire = ("--subnet", "198.51.100.0/24", "--gateway", OUTSIDE_ADDRESS, "-o", "parent=cable0")
    engine.cli("network", "create", "-d", "macvlan", *wire, *options, "wire")
    place = ("--network", "wire", "--ip", ADDRESS)
    engine.cli("run", "-d", "--name", "web", "--hostname", "web", *place, "busybox", "sh", "-c", SERVE)


def reached(engine: Engine, outside: Neighbour) -> None:
    engine.wait_for(lambda: outside.fetch(URL) == "page of web\n")


def test_a_container_is_on_the_wire_under_its_own_addresses(engine: Engine) -> None:
    """NET-29: reached from outside and by its siblings by name, not by the host; the default route is the network's."""
    with neighbour(engine) as outside:
        on_the_wire(engine)
        reached(engine, outside)
        assert f"default via {OUTSIDE_ADDRESS}" in engine.out("exec", "web", "ip", "route")
        assert "mode bridge" in inside(engine, "web", "ip", "-d", "link", "show", "eth0")
        sibling = ("run", "--rm", "--network", "wire", "busybox")
        assert engine.out(*sibling, "wget", "-qO-", URL) == "page of web"
        assert ADDRESS in engine.out(*sibling, "nslookup", "-type=a", "web")
        found = engine.json("/containers/web/json")["NetworkSettings"]
        assert (found["Networks"]["wire"]["IPAddress"], found["Ports"]) == (ADDRESS, {})
        mac = found["Networks"]["wire"]["MacAddress"]
        assert mac in inside(engine, "web", "ip", "link", "show", "eth0")
        ping = (BUSYBOX, "ping", "-c", "1", "-W", "1", ADDRESS)
        assert engine.in_namespace(*ping, check=False).returncode != 0, "the kernel keeps the parent apart"
        clear_wire(engine)


def inside(engine: Engine, name: str, *command: str) -> str:
    """What the host's `ip` says in a container's network namespace: busybox's tells less."""
    pid = engine.json(f"/containers/{name}/json")["State"]["Pid"]
    return engine.in_namespace("nsenter", "-t", str(pid), "-n", *command).stdout


def clear_wire(engine: Engine) -> None:
    engine.cli("rm", "-f", "web")
    engine.cli("network", "rm", "wire")
    assert "cable0" in engine.in_namespace("ip", "link").stdout, "the host's interface stays"


@pytest.mark.parametrize(("mode", "shown"), [("private", "private"), ("vepa", "vepa"), ("passthru", "passthru")])
def test_modes(engine: Engine, mode: str, shown: str) -> None:
    """NET-29."""
    with neighbour(engine) as outside:
        on_the_wire(engine, "-o", f"macvlan_mode={mode}")
        assert f"mode {shown}" in inside(engine, "web", "ip", "-d", "link", "show", "eth0")
        reached(engine, outside)
        clear_wire(engine)


def test_a_running_container_comes_and_goes_also_after_a_restart_of_the_engine(engine: Engine) -> None:
    """NET-29, NET-05, NET-38."""
    with neighbour(engine) as outside:
        on_the_wire(engine)
        engine.cli("run", "-d", "--name", "other", "busybox", "sleep", "1000")
        engine.cli("network", "connect", "wire", "other")
        links = ("exec", "other", "ls", "/sys/class/net")
        assert engine.out(*links).split() == ["eth0", "eth1", "lo"]
        engine.kill()
        engine.start()
        reached(engine, outside)
        engine.cli("network", "disconnect", "wire", "other")
        assert engine.out(*links).split() == ["eth0", "lo"]
        assert engine.cli("exec", "other", "ping", "-c", "1", "-W", "2", HOST_ADDRESS).returncode == 0
        clear_wire(engine)


def refusal(engine: Engine, driver: str, **options: str) -> tuple[int, str]:
    body = {"Name": "refused", "Driver": driver, "Options": options}
    status, answer = engine.request("POST", "/networks/create", body)
    return status, json.loads(answer).get("message", "")


def links(engine: Engine) -> set[str]:
    return {link["ifname"] for link in json.loads(engine.in_namespace("ip", "-j", "link").stdout)}


def test_parents_and_modes_that_can_not_be(engine: Engine) -> None:
    """NET-29: Docker's words, and nothing half made."""
    with neighbour(engine):
        before = links(engine)
        lo = "loopback interface is not a valid macvlan parent link"
        assert refusal(engine, "macvlan", parent="lo") == (400, lo)
        nowhere = "invalid subinterface vlan name nope, example formatting is eth0.10"
        assert refusal(engine, "macvlan", parent="nope") == (400, nowhere)
        status, words = refusal(engine, "macvlan", parent="nope.10")
        assert (status, words.startswith("failed to find master interface nope")) == (400, True)
        status, words = refusal(engine, "macvlan", parent="cable0.5000")
        assert (status, words) == (400, "vlan id must be between 1-4094, received: 5000")
        status, words = refusal(engine, "macvlan", parent="cable0", macvlan_mode="odd")
        assert (status, words.startswith("requested macvlan mode 'odd' is not valid")) == (400, True)
        assert links(engine) <= before, "what an earlier container had may have gone meanwhile"
        assert [network["Name"] for network in engine.json("/networks") if network["Driver"] == "macvlan"] == []
        on_the_wire(engine)
        status, words = refusal(engine, "macvlan", parent="cable0")
        assert (status, words.endswith("is already using parent interface cable0")) == (500, True)
        clear_wire(engine)


def kernel_has(engine: Engine, kind: str) -> bool:
    made = engine.in_namespace("ip", "link", "add", "probe0", "link", "cable0", "type", kind, check=False)
    engine.in_namespace("ip", "link", "delete", "probe0", check=False)
    return made.returncode == 0


def test_ipvlan_where_the_kernel_has_it_and_clear_words_elsewhere(engine: Engine) -> None:
    """NET-30."""
    with neighbour(engine) as outside:
        status, words = refusal(engine, "ipvlan", parent="cable0", ipvlan_mode="odd")
        assert (status, words.startswith("requested ipvlan mode 'odd' is not valid")) == (400, True)
        if not kernel_has(engine, "ipvlan"):
            status, words = refusal(engine, "ipvlan", parent="cable0")
            assert (status, words) == (501, "failed to create the network: this kernel has no ipvlan interfaces")
            return
        wire = ("--subnet", "198.51.100.0/24", "--gateway", OUTSIDE_ADDRESS, "-o", "parent=cable0")
        engine.cli("network", "create", "-d", "ipvlan", *wire, "wire")
        engine.cli("run", "-d", "--name", "web", "--hostname", "web", "--network", "wire", "--ip", ADDRESS,
                   "busybox", "sh", "-c", SERVE)  # fmt: skip
        reached(engine, outside)
        clear_wire(engine)


def test_a_vlan_of_an_interface_is_made_for_its_network_and_goes_with_it(engine: Engine) -> None:
    """NET-29: `parent=cable0.10`; the neighbour hears the container on VLAN 10 alone."""
    with neighbour(engine) as outside:
        vlan = ("link", "add", "link", "cable0", "name", "probe0", "type", "vlan", "id", "9")
        if engine.in_namespace("ip", *vlan, check=False).returncode:
            pytest.skip("this kernel has no VLAN interfaces")
        engine.in_namespace("ip", "link", "delete", "probe0")
        wire = ("--subnet", "198.18.10.0/24", "--gateway", "198.18.10.1", "-o", "parent=cable0.10")
        engine.cli("network", "create", "-d", "macvlan", *wire, "wire")
        engine.cli("run", "-d", "--name", "web", "--hostname", "web", "--network", "wire", "--ip", "198.18.10.20",
                   "busybox", "sh", "-c", SERVE)  # fmt: skip
        outside.run("ip", "link", "add", "link", "cable1", "name", "ten", "type", "vlan", "id", "10")
        outside.run("ip", "addr", "add", "198.18.10.1/24", "dev", "ten")
        outside.run("ip", "link", "set", "ten", "up")
        engine.wait_for(lambda: outside.fetch("http://198.18.10.20/") == "page of web\n")
        engine.kill()
        engine.start()
        assert outside.fetch("http://198.18.10.20/") == "page of web\n"
        assert "cable0.10" in engine.in_namespace("ip", "link").stdout
        clear_wire(engine)
        assert "cable0.10" not in engine.in_namespace("ip", "link").stdout


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_a_network_without_a_parent_is_a_wire_of_its_own(engine: Engine, driver: str) -> None:
    """NET-29, NET-30: a dummy as the parent; containers reach each other, by name too, and nobody else."""
    with neighbour(engine):
        if not kernel_has(engine, driver):
            pytest.skip(f"this kernel has no {driver} interfaces")
        dummy = engine.in_namespace("ip", "link", "add", "probe1", "type", "dummy", check=False)
        if dummy.returncode:
            status, words = refusal(engine, driver)
            assert (status, "dummy" in words) == (501, True)
            pytest.skip("this kernel has no dummy interfaces")
        engine.in_namespace("ip", "link", "delete", "probe1")
        engine.cli("network", "create", "-d", driver, "wire")
        engine.cli("run", "-d", "--name", "web", "--hostname", "web", "--network", "wire", "busybox", "sh", "-c", SERVE)
        ask = ("run", "--rm", "--network", "wire", "busybox", "wget", "-qO-", "http://web/")
        engine.wait_for(lambda: engine.cli(*ask, check=False).stdout == "page of web\n")
        assert engine.cli("run", "--rm", "--network", "wire", "busybox", "ping", "-c1", "-W1", HOST_ADDRESS,
                          check=False).returncode  # fmt: skip
        engine.cli("rm", "-f", "web")
        engine.cli("network", "rm", "wire")
        assert "dummy" not in engine.in_namespace("ip", "-d", "link").stdout


@pytest.mark.parametrize(("mode", "flag"), [("l2", "bridge"), ("l2", "private"), ("l3", "vepa"), ("l3s", "bridge")])
def test_modes_of_ipvlan(engine: Engine, mode: str, flag: str) -> None:
    """NET-30."""
    with neighbour(engine) as outside:
        if not kernel_has(engine, "ipvlan"):
            pytest.skip("this kernel has no ipvlan interfaces")
        wire = ("--subnet", "198.51.100.0/24", "-o", "parent=cable0", "-o", f"ipvlan_mode={mode}")
        engine.cli("network", "create", "-d", "ipvlan", *wire, "-o", f"ipvlan_flag={flag}", "wire")
        engine.cli("run", "-d", "--name", "web", "--hostname", "web", "--network", "wire", "--ip", ADDRESS,
                   "busybox", "sh", "-c", SERVE)  # fmt: skip
        assert f"mode {mode}" in inside(engine, "web", "ip", "-d", "link", "show", "eth0")
        assert flag in inside(engine, "web", "ip", "-d", "link", "show", "eth0")
        if mode != "l2":  # The parent's host is a router then, and nobody answers for the container on the wire itself.
            outside.run("ip", "route", "replace", ADDRESS, "via", HOST_ADDRESS)
        reached(engine, outside)
        clear_wire(engine)
