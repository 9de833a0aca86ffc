"""Names and sysctls of single interfaces, and gateway modes, as users ask for them."""

from __future__ import annotations

import json

import pytest

from tests.support.engine import Engine
from tests.support.images import BUSYBOX
from tests.support.outside import HOST_ADDRESS, neighbour

pytestmark = pytest.mark.root
NAME = "com.docker.network.endpoint.ifname"
SYSCTLS = "com.docker.network.endpoint.sysctls"


def read(engine: Engine, path: str) -> str:
    return engine.out("exec", "web", "cat", path)


def interfaces(engine: Engine) -> list[str]:
    return engine.out("exec", "web", "ls", "/sys/class/net").split()


def test_an_interface_has_the_name_and_the_sysctls_that_its_endpoint_asked_for(engine: Engine) -> None:
    """NET-28: at the start and at a connect; the others are numbered as ever."""
    for name in ("one", "two", "three"):
        engine.cli("network", "create", name)
    asked = f'name=two,driver-opt={NAME}=front,"driver-opt={SYSCTLS}=net.ipv4.conf.IFNAME.log_martians=1"'
    engine.cli("run", "-d", "--name", "web", "--network", "one", "--network", asked, "busybox", "sleep", "1000")
    assert interfaces(engine) == ["eth0", "front", "lo"]
    assert read(engine, "/proc/sys/net/ipv4/conf/front/log_martians") == "1"
    assert read(engine, "/proc/sys/net/ipv4/conf/eth0/log_martians") == "0"
    rest = ("--driver-opt", f"{NAME}=back", "--driver-opt", f"{SYSCTLS}=net.ipv4.conf.IFNAME.forwarding=0")
    engine.cli("network", "connect", *rest, "three", "web")
    assert interfaces(engine) == ["back", "eth0", "front", "lo"]
    assert read(engine, "/proc/sys/net/ipv4/conf/back/forwarding") == "0"
    engine.cli("restart", "-t", "0", "web")
    assert interfaces(engine) == ["back", "eth0", "front", "lo"]
    assert read(engine, "/proc/sys/net/ipv4/conf/front/log_martians") == "1"


def test_a_network_may_have_its_own_prefix(engine: Engine) -> None:
    """NET-08: container_iface_prefix."""
    engine.cli("network", "create", "-o", "com.docker.network.container_iface_prefix=lan", "one")
    engine.cli("run", "-d", "--name", "web", "--network", "one", "busybox", "sleep", "1000")
    assert interfaces(engine) == ["lan0", "lo"]


def test_what_can_not_be_asked_of_an_interface(engine: Engine) -> None:
    """NET-28: 400 in Docker's words; a value that the kernel refuses fails the start and leaves nothing."""
    engine.cli("network", "create", "one")

    def create(**options: str) -> tuple[int, str]:
        endpoint = {"DriverOpts": options}
        body = {"Image": "busybox", "Cmd": ["sleep", "9"], "HostConfig": {"NetworkMode": "one"},
                "NetworkingConfig": {"EndpointsConfig": {"one": endpoint}}}  # fmt: skip
        status, answer = engine.request("POST", "/containers/create?name=web", body)
        return status, json.loads(answer).get("message", "")

    status, words = create(**{SYSCTLS: "net.ipv4.conf.eth0.forwarding=1"})
    assert status == 400
    assert "unrecognised network interface sysctl 'net.ipv4.conf.eth0.forwarding=1'" in words
    assert create(**{NAME: "a" * 16})[0] == 400
    assert create(**{SYSCTLS: "net.ipv4.conf.IFNAME.no_such=1"})[0] == 201
    status, _ = engine.request("POST", "/containers/web/start")
    assert status in (400, 500)
    assert engine.json("/networks/one")["Containers"] == {}


def test_a_routed_network_is_reached_at_its_own_addresses(engine: Engine) -> None:
    """NET-08: published ports only, and nothing at the host's, whose port is free for others."""
    mode = "com.docker.network.bridge.gateway_mode_ipv4=routed"
    engine.cli("network", "create", "--subnet", "10.88.0.0/24", "-o", mode, "plain")
    serve = "mkdir /www; echo hello > /www/index.html; httpd -h /www -p 81; httpd -f -h /www"
    place = ("--network", "plain", "--ip", "10.88.0.9")
    engine.cli("run", "-d", "--name", "web", *place, "-p", "8090:80", "busybox", "sh", "-c", serve)
    assert engine.out("port", "web") == "80/tcp -> 0.0.0.0:\n80/tcp -> [::]:"
    assert "PublicPort" not in engine.json("/containers/json")[0]["Ports"][0]
    engine.cli("run", "--rm", "-p", "8090:80", "busybox", "true")
    with neighbour(engine) as outside:
        outside.run("ip", "route", "add", "10.88.0.0/24", "via", HOST_ADDRESS)
        engine.wait_for(lambda: outside.fetch("http://10.88.0.9/") == "hello\n")
        assert outside.fetch("http://10.88.0.9:81/") == ""
        assert outside.fetch(f"http://{HOST_ADDRESS}:8090/") == ""
        assert outside.run(BUSYBOX, "ping", "-c", "1", "-W", "2", "10.88.0.9") == 0
        engine.kill()
        engine.start()
        assert outside.fetch("http://10.88.0.9/") == "hello\n"
    status, words = engine.request("POST", "/networks/create", {"Name": "x", "Options": {mode.split("=")[0]: "odd"}})
    assert (status, b"unknown gateway mode odd" in words) == (400, True)


def test_a_network_says_where_its_ports_are_published(engine: Engine) -> None:
    """NET-08: host_binding_ipv4, which a port's own address overrides."""
    option = "com.docker.network.bridge.host_binding_ipv4"
    engine.cli("network", "create", "-o", f"{option}=127.0.0.1", "near")
    engine.cli("run", "-d", "--name", "web", "--network", "near", "-p", "8091:80", "-p", "0.0.0.0:8092:80", "busybox",
               "sleep", "100")  # fmt: skip
    assert engine.out("port", "web").split("\n") == ["80/tcp -> 0.0.0.0:8092", "80/tcp -> 127.0.0.1:8091"]
    status, words = engine.request("POST", "/networks/create", {"Name": "x", "Options": {option: "nowhere"}})
    assert (status, b"invalid IP address" in words) == (400, True)
