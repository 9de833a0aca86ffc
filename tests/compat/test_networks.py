"""Networks as users meet them: published ports, names, user-defined networks, connect and disconnect."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest

from tests.support.engine import Engine
from tests.support.outside import fetch_locally, neighbour, standing_in

pytestmark = pytest.mark.root
SERVE = "mkdir -p /www; echo page of $(hostname) > /www/index.html; httpd -f -p 80 -h /www"


def serve(engine: Engine, name: str, *options: str) -> None:
    """A web server that answers `page of NAME`."""
    engine.cli("run", "-d", "--name", name, "--hostname", name, *options, "busybox", "sh", "-c", SERVE)
    engine.wait_for(lambda: engine.cli("exec", name, "wget", "-qO-", "http://127.0.0.1/", check=False).returncode == 0)


def address(engine: Engine, name: str, network: str = "bridge") -> str:
    found = engine.json(f"/containers/{name}/json")["NetworkSettings"]["Networks"][network]["IPAddress"]
    assert isinstance(found, str)
    return found


def test_a_published_port_answers_from_here_and_from_outside(engine: Engine) -> None:
    """NET-13, NET-15: loopback, the host's own address, another machine; nobody after the stop."""
    serve(engine, "web", "-p", "8080:80")
    with neighbour(engine) as outside:
        assert fetch_locally(engine, "http://127.0.0.1:8080/") == "page of web\n"
        assert fetch_locally(engine, f"http://{outside.address}:8080/") == "page of web\n"
        assert outside.fetch(f"http://{outside.address}:8080/") == "page of web\n"
        assert engine.out("port", "web") == "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080"
        assert "0.0.0.0:8080->80/tcp" in engine.out("ps", "--format", "{{.Ports}}")
        engine.cli("stop", "-t", "0", "web")
        assert outside.fetch(f"http://{outside.address}:8080/") == ""
        assert fetch_locally(engine, "http://127.0.0.1:8080/") == ""
        engine.cli("start", "web")
        engine.wait_for(lambda: outside.fetch(f"http://{outside.address}:8080/") == "page of web\n")


def test_a_port_published_on_loopback_stays_there(engine: Engine) -> None:
    """NET-13."""
    serve(engine, "web", "-p", "127.0.0.1:8081:80")
    with neighbour(engine) as outside:
        assert fetch_locally(engine, "http://127.0.0.1:8081/") == "page of web\n"
        assert outside.fetch(f"http://{outside.address}:8081/") == ""


def test_a_port_chosen_by_the_engine(engine: Engine) -> None:
    """NET-13: ephemeral, one for each exposed port with -P."""
    serve(engine, "web", "-p", "80")
    host_port = engine.out("port", "web", "80").splitlines()[0].rpartition(":")[2]
    assert 32768 <= int(host_port) <= 60999
    assert fetch_locally(engine, f"http://127.0.0.1:{host_port}/") == "page of web\n"
    engine.cli("run", "-d", "--name", "all", "-P", "--expose", "80", "--expose", "53/udp", "busybox", "sleep", "1000")
    assert {line.split(" ")[0] for line in engine.out("port", "all").splitlines()} == {"80/tcp", "53/udp"}


def test_an_ephemeral_port_that_another_program_holds_is_passed_over(engine: Engine) -> None:
    """NET-13: the ledger cannot know of it, the kernel does; the container gets another and no error."""
    engine.cli("run", "-d", "--name", "before", "-p", "80", "busybox", "sleep", "1000")
    last = int(engine.out("port", "before", "80").splitlines()[0].rpartition(":")[2])
    with contextlib.ExitStack() as held, standing_in(engine.name):
        for port in (last + 1, last + 2):
            listener = held.enter_context(socket.socket())
            listener.bind(("0.0.0.0", port))
            listener.listen()
        engine.cli("run", "-d", "--name", "after", "-p", "80", "busybox", "sleep", "1000")
    given = {int(line.rpartition(":")[2]) for line in engine.out("port", "after", "80").splitlines()}
    assert len(given) == 1
    assert given.isdisjoint({last, last + 1, last + 2})


def test_a_taken_port_fails_the_start_and_leaves_nothing(engine: Engine) -> None:
    """NET-14: 500 with Docker's words; the container stays created and starts once the port is free."""
    engine.cli("run", "-d", "--name", "first", "-p", "8082:80", "busybox", "sleep", "1000")
    engine.cli("create", "--name", "second", "-p", "8082:80", "busybox", "sleep", "1000")
    status, body = engine.request("POST", "/containers/second/start")
    assert status == 500
    assert "Bind for 0.0.0.0:8082 failed: port is already allocated" in json.loads(body)["message"]
    assert engine.json("/containers/second/json")["State"]["Status"] == "created"
    assert list(engine.json("/networks/bridge")["Containers"]) == [engine.json("/containers/first/json")["Id"]]
    engine.cli("rm", "-f", "first")
    engine.cli("start", "second")


def test_containers_reach_each_other_and_their_own_host(engine: Engine) -> None:
    """NET-07, NET-15: by address on the bridge, and by the host's published port (hairpin)."""
    serve(engine, "web", "-p", "8083:80")
    gateway = engine.json("/networks/bridge")["IPAM"]["Config"][0]["Gateway"]
    for url in (f"http://{address(engine, 'web')}/", f"http://{gateway}:8083/"):
        assert engine.out("run", "--rm", "busybox", "timeout", "5", "wget", "-qO-", url) == "page of web"
    assert engine.out("exec", "web", "timeout", "5", "wget", "-qO-", f"http://{gateway}:8083/") == "page of web"


def test_names_are_looked_up_on_a_network_of_ones_own(engine: Engine) -> None:
    """NET-01, NET-24, NET-27: name, alias, short id and host's answer; on the default bridge no name does."""
    network_id = engine.out("network", "create", "yard")
    assert len(network_id) == 64
    serve(engine, "web", "--network", "yard", "--network-alias", "www")
    short_id = engine.out("ps", "-q")
    for name in ("web", "www", short_id, "web.yard"):
        shown = engine.out("run", "--rm", "--network", "yard", "busybox", "nslookup", "-type=a", name)
        assert address(engine, "web", "yard") in shown, shown
    # The static busybox resolves names in `nslookup` only; the server itself answers to a fetched address.
    fetched = engine.out("run", "--rm", "--network", "yard", "busybox", "sh", "-c", "cat /etc/resolv.conf")
    assert "nameserver 127.0.0.11" in fetched
    assert "127.0.0.11" not in engine.out("run", "--rm", "busybox", "cat", "/etc/resolv.conf")


def test_connect_and_disconnect_a_running_container(engine: Engine) -> None:
    """NET-05: an interface comes and goes, with its name on that network; `network inspect` lists it meanwhile."""
    engine.cli("network", "create", "yard")
    serve(engine, "web")
    links = "ls /sys/class/net | sort | tr '\\n' ' '"
    assert engine.out("exec", "web", "sh", "-c", links).split() == ["eth0", "lo"]
    engine.cli("network", "connect", "--alias", "other", "yard", "web")
    assert engine.out("exec", "web", "sh", "-c", links).split() == ["eth0", "eth1", "lo"]
    there = address(engine, "web", "yard")
    members = engine.json("/networks/yard")["Containers"]
    assert [member["Name"] for member in members.values()] == ["web"]
    assert members[engine.json("/containers/web/json")["Id"]]["IPv4Address"].startswith(there + "/")
    assert there in engine.out("run", "--rm", "--network", "yard", "busybox", "nslookup", "-type=a", "other")
    again = engine.cli("network", "connect", "yard", "web", check=False)
    assert "already exists in network yard" in again.stderr
    engine.cli("network", "disconnect", "yard", "web")
    assert engine.out("exec", "web", "sh", "-c", links).split() == ["eth0", "lo"]
    assert engine.json("/networks/yard")["Containers"] == {}


def test_networks_are_apart(engine: Engine) -> None:
    """NET-18: a container on one network does not reach another's; `--internal` has no way out."""
    engine.cli("network", "create", "one")
    engine.cli("network", "create", "--internal", "two")
    serve(engine, "web", "--network", "one")
    url = f"http://{address(engine, 'web', 'one')}/"
    fetch = ("busybox", "sh", "-c", f"timeout 1 wget -qO- {url}; exit $?")
    assert engine.out("run", "--rm", "--network", "one", *fetch) == "page of web"
    assert engine.cli("run", "--rm", *fetch, check=False).returncode != 0
    assert engine.cli("run", "--rm", "--network", "two", *fetch, check=False).returncode != 0
    assert "default" not in engine.out("run", "--rm", "--network", "two", "busybox", "ip", "route")


def test_a_chosen_subnet_and_address(engine: Engine) -> None:
    """NET-10, NET-11: --subnet, --ip; overlaps, taken and foreign addresses are refused."""
    engine.cli("network", "create", "--subnet", "10.77.0.0/24", "--gateway", "10.77.0.254", "plan")
    engine.cli("run", "-d", "--name", "fixed", "--network", "plan", "--ip", "10.77.0.9", "busybox", "sleep", "1000")
    assert "inet 10.77.0.9/24" in engine.out("exec", "fixed", "ip", "addr", "show", "eth0")
    assert "default via 10.77.0.254" in engine.out("exec", "fixed", "ip", "route")
    overlap = engine.cli("network", "create", "--subnet", "10.77.0.0/16", "clash", check=False)
    assert "Pool overlaps with other one on this address space" in overlap.stderr
    taken = engine.cli("run", "--rm", "--network", "plan", "--ip", "10.77.0.9", "busybox", "true", check=False)
    assert "Address already in use" in taken.stderr
    assert engine.cli("run", "--rm", "--ip", "10.1.1.1", "busybox", "true", check=False).returncode == 125


def test_a_container_that_was_on_a_network_wants_that_one(engine: Engine) -> None:
    """NET-05, CTR-08: another network of the same name is another network to a container that has been on the first
    one, and as good as it to one that never ran."""
    engine.cli("network", "create", "yard")
    for name in ("old", "new"):
        engine.cli("create", "--name", name, "--network", "yard", "busybox", "true")
    engine.cli("start", "-a", "old")
    was = engine.json("/networks/yard")["Id"]
    engine.cli("network", "rm", "yard")
    engine.cli("network", "create", "yard")
    engine.cli("start", "-a", "new")
    refused = engine.cli("start", "old", check=False)
    assert f"network {was} not found" in refused.stderr
    engine.cli("network", "disconnect", "yard", "old")
    engine.cli("network", "connect", "yard", "old")
    engine.cli("start", "-a", "old")
    engine.cli("network", "rm", "yard")
    engine.cli("network", "disconnect", "yard", "old")
    assert engine.json("/containers/old/json")["NetworkSettings"]["Networks"] == {}


def test_who_shares_a_network_stays_without_one_when_its_owner_ends(engine: Engine) -> None:
    """CTR-38: the address is the next container's, and nobody else's."""
    engine.cli("network", "create", "--subnet", "10.78.0.0/24", "plan")
    fixed = ("--network", "plan", "--ip", "10.78.0.9")
    serve(engine, "web", *fixed)
    engine.cli("run", "-d", "--name", "shares", "--network", "container:web", "busybox", "sleep", "1000")
    assert engine.out("exec", "shares", "hostname") == engine.out("exec", "web", "hostname")
    assert "10.78.0.9" in engine.out("exec", "shares", "ip", "addr")
    engine.cli("kill", "web")
    assert "eth0" not in engine.out("exec", "shares", "ip", "addr")
    serve(engine, "next", *fixed)
    fetch = ("busybox", "wget", "-qO-", "http://10.78.0.9/")
    assert engine.out("run", "--rm", "--network", "plan", *fetch) == "page of next"


def test_a_network_in_use_cannot_be_removed(engine: Engine) -> None:
    """NET-01, NET-04, NET-06."""
    engine.cli("network", "create", "yard")
    assert "network with name yard already exists" in engine.cli("network", "create", "yard", check=False).stderr
    engine.cli("run", "-d", "--name", "tenant", "--network", "yard", "busybox", "sleep", "1000")
    status, body = engine.request("DELETE", "/networks/yard")
    assert (status, b"has active endpoints" in body, b"tenant" in body) == (403, True, True)
    engine.cli("rm", "-f", "tenant")
    engine.cli("network", "rm", "yard")
    assert engine.request("GET", "/networks/yard")[0] == 404
    assert engine.in_namespace("ip", "-o", "link").stdout.count(": br-") == 0


def test_host_and_none(engine: Engine) -> None:
    """NET-19: the host's interfaces, or none but loopback."""
    assert "docker0" in engine.out("run", "--rm", "--network", "host", "busybox", "ip", "link")
    assert engine.out("run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net") == "lo"


def test_a_container_on_two_networks(engine: Engine) -> None:
    """NET-21, NET-22: one interface on each, one default route."""
    engine.cli("network", "create", "one")
    engine.cli("network", "create", "two")
    engine.cli("run", "-d", "--name", "both", "--network", "one", "--network", "two", "busybox", "sleep", "1000")
    shown = engine.out("exec", "both", "ip", "-o", "-4", "addr")
    assert address(engine, "both", "one") in shown
    assert address(engine, "both", "two") in shown
    assert engine.out("exec", "both", "ip", "route").count("default") == 1
