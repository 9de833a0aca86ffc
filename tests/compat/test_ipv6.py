"""IPv6 as users meet it: beside IPv4, and alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.engine import Engine
from tests.support.outside import neighbour

pytestmark = pytest.mark.root
SERVE = "mkdir /www; echo page of $(hostname) > /www/index.html; httpd -f -p [::]:80 -h /www"
PAGE = "page of web\n"
HOST6, OUTSIDE6 = "2001:db8:77::1", "2001:db8:77::2"


def serve(engine: Engine, network: str, *options: str) -> None:
    place = ("--name", "web", "--hostname", "web", "--network", network)
    engine.cli("run", "-d", *place, *options, "busybox", "sh", "-c", SERVE)
    engine.wait_for(lambda: engine.cli("exec", "web", "wget", "-qO-", "http://[::1]/", check=False).returncode == 0)


def endpoint(engine: Engine, network: str) -> dict[str, Any]:
    found = engine.json("/containers/web/json")["NetworkSettings"]["Networks"][network]
    assert isinstance(found, dict)
    return found


def test_both_families_side_by_side(engine: Engine) -> None:
    """NET-12, NET-11, NET-24: a subnet of the host's own range, a static address, names in both families."""
    engine.cli("network", "create", "--ipv6", "dual")
    pools = [config["Subnet"] for config in engine.json("/networks/dual")["IPAM"]["Config"]]
    assert [":" in subnet for subnet in pools] == [False, True]
    assert pools[1].startswith("fd")
    wanted = pools[1].replace("::/64", "::77")
    serve(engine, "dual", "--ip6", wanted)
    found = endpoint(engine, "dual")
    assert (found["GlobalIPv6Address"], found["GlobalIPv6PrefixLen"]) == (wanted, 64)
    client = ("run", "--rm", "--network", "dual", "busybox")
    assert found["IPAddress"] in engine.out(*client, "nslookup", "-type=a", "web")
    assert wanted in engine.out(*client, "nslookup", "-type=aaaa", "web")
    for host in (found["IPAddress"], f"[{wanted}]"):
        assert engine.out(*client, "wget", "-qO-", f"http://{host}/") + "\n" == PAGE
    taken = engine.cli("run", "--rm", "--network", "dual", "--ip6", wanted, "busybox", "true", check=False)
    assert "Address already in use" in taken.stderr


def test_ipv6_alone(engine: Engine) -> None:
    """NET-12: no address of the other family anywhere; names, the default route and published ports work."""
    subnet = "2001:db8:6::/64"
    body = {"Name": "six", "EnableIPv4": False, "EnableIPv6": True, "IPAM": {"Config": [{"Subnet": subnet}]}}
    assert engine.request("POST", "/networks/create", body)[0] == 201
    serve(engine, "six", "-p", "8091:80")
    found = endpoint(engine, "six")
    assert (found["IPAddress"], found["GlobalIPv6Address"]) == ("", "2001:db8:6::2")
    assert "inet " not in engine.out("exec", "web", "ip", "addr", "show", "eth0")
    assert "default via 2001:db8:6::1" in engine.out("exec", "web", "ip", "-6", "route")
    client = ("run", "--rm", "--network", "six", "busybox")
    assert "2001:db8:6::2" in engine.out(*client, "nslookup", "-type=aaaa", "web")
    local = ("http://[::1]:8091/", "http://127.0.0.1:8091/")
    for url in local:
        assert engine.in_namespace("busybox", "wget", "-qO-", url).stdout == PAGE
    engine.kill()
    engine.start()
    for url in local:
        assert engine.in_namespace("busybox", "wget", "-qO-", url).stdout == PAGE


def test_ports_are_published_outside_and_containers_leave_under_the_hosts_address(engine: Engine) -> None:
    """NET-12, NET-13: source addresses are seen as they are; the way out is masqueraded."""
    engine.cli("network", "create", "--ipv6", "dual")
    with neighbour(engine) as outside:
        for namespace, link, address in ((engine.name, "cable0", HOST6), (outside.name, "cable1", OUTSIDE6)):
            command = ("ip", "-n", namespace, "-6", "addr", "add", f"{address}/64", "dev", link, "nodad")
            engine.in_namespace(*command)
        serve(engine, "dual", "-p", "8092:80")
        assert outside.fetch(f"http://[{HOST6}]:8092/") == PAGE
        with outside.listening(OUTSIDE6, 9000) as clients:
            engine.cli("exec", "-d", "web", "timeout", "5", "nc", OUTSIDE6, "9000")
            assert clients() == [HOST6]
