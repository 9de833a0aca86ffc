"""What the daemon's options make of the default network, seen on the real bridge and by containers on it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.engine import Engine, running_engine

pytestmark = pytest.mark.root


def bridge(engine: Engine, name: str = "docker0") -> dict[str, Any]:
    """The link and its addresses, link-local ones left out."""
    (link,) = json.loads(engine.in_namespace("ip", "-j", "addr", "show", "dev", name).stdout)
    addresses = [each for each in link["addr_info"] if each["scope"] == "global"]
    return {"mtu": link["mtu"], "addresses": {f"{each['local']}/{each['prefixlen']}" for each in addresses}}


def there(engine: Engine, name: str) -> bool:
    return engine.in_namespace("ip", "link", "show", "dev", name, check=False).returncode == 0


def inside(engine: Engine, *command: str) -> str:
    return engine.out("run", "--rm", "busybox", *command)


def restart(engine: Engine, *flags: str) -> None:
    engine.stop()
    engine.flags = flags
    engine.start()


def refused(engine: Engine, *flags: str) -> str:
    """The last line of an engine that does not start with these flags."""
    engine.stop()
    before, engine.flags = engine.flags, flags
    with pytest.raises(AssertionError, match="did not start") as told:
        engine.start()
    engine.process, engine.flags = None, before
    engine.start()
    return str(told.value).strip().splitlines()[-1]


def test_addresses_ranges_and_mtu_are_as_configured() -> None:
    """NET-07, NET-11, NET-12: --bip, --fixed-cidr, --ipv6, --bip6, --fixed-cidr-v6, --mtu."""
    flags = (
        "--bip=192.168.90.1/24", "--fixed-cidr=192.168.90.128/25", "--mtu=1400",
        "--ipv6", "--bip6=fd90::1/64", "--fixed-cidr-v6=fd90::8000:0/112",
    )  # fmt: skip
    with running_engine(*flags) as engine:
        assert bridge(engine) == {"mtu": 1400, "addresses": {"192.168.90.1/24", "fd90::1/64"}}
        seen = inside(
            engine, "sh", "-c", "ip -4 -o addr show eth0; ip -6 -o addr show eth0; cat /sys/class/net/eth0/mtu"
        )
        assert "192.168.90.128/24" in seen
        assert "fd90::8000:0/64" in seen or "fd90::8000:1/64" in seen
        assert seen.endswith("1400")
        assert inside(engine, "ping", "-c1", "-W5", "fd90::1")
        pools = json.loads(engine.out("network", "inspect", "bridge"))[0]["IPAM"]["Config"]
        assert pools == [
            {"Subnet": "192.168.90.0/24", "IPRange": "192.168.90.128/25", "Gateway": "192.168.90.1"},
            {"Subnet": "fd90::/64", "IPRange": "fd90::8000:0/112", "Gateway": "fd90::1"},
        ]


def default_routes(engine: Engine, network: str) -> list[str]:
    """Where they lead in a container of a network."""
    show = ("run", "--rm", "--network", network, "busybox", "sh", "-c", "ip route; ip -6 route")
    lines = engine.out(*show).splitlines()
    return [line.split()[2] for line in lines if line.startswith("default via")]


def test_default_routes_lead_to_another_gateway_than_the_bridge() -> None:
    """NET-11: --default-gateway, --default-gateway-v6; on a user's network by auxiliary addresses."""
    flags = (
        "--bip=192.168.90.1/24", "--default-gateway=192.168.90.2", "--ipv6", "--bip6=fd90::1/64",
        "--default-gateway-v6=fd90::2",
    )  # fmt: skip
    with running_engine(*flags) as engine:
        assert bridge(engine)["addresses"] == {"192.168.90.1/24", "fd90::1/64"}
        assert default_routes(engine, "bridge") == ["192.168.90.2", "fd90::2"]
        engine.cli("run", "-d", "--name", "up", "busybox", "sleep", "1000")
        found = engine.json("/containers/up/json")["NetworkSettings"]["Networks"]["bridge"]
        assert (found["Gateway"], found["IPAddress"]) == ("192.168.90.2", "192.168.90.4"), "nobody else's address"
        (pool, _) = json.loads(engine.out("network", "inspect", "bridge"))[0]["IPAM"]["Config"]
        assert pool["AuxiliaryAddresses"] == {"DefaultGatewayIPv4": "192.168.90.2"}
        assert pool["Gateway"] == "192.168.90.1"
        create = ("network", "create", "--subnet=10.9.0.0/24", "--aux-address=DefaultGatewayIPv4=10.9.0.9")
        shut = engine.cli(*create, "--internal", "shut", check=False)
        assert "no gateway can be set on an internal bridge network" in shut.stderr
        engine.cli(*create, "own")
        assert default_routes(engine, "own") == ["10.9.0.9"]
        engine.cli("rm", "-f", "up")
        restart(engine, "--default-gateway=192.168.90.3")
        assert default_routes(engine, "bridge") == ["192.168.90.3"]
        restart(engine)
        assert default_routes(engine, "bridge") == ["192.168.90.1"]
        assert "must belong to the master pool: 192.168.90.0/24" in refused(engine, "--default-gateway=10.0.0.1")
        assert "Address already in use" in refused(engine, "--default-gateway=192.168.90.1")


def test_what_changes_is_followed_at_the_next_start_and_the_rest_stays() -> None:
    """SYS-07, NET-12: the id stays, so containers of before start again."""
    with running_engine("--bip=192.168.90.1/24") as engine:
        engine.cli("create", "--name", "old", "busybox", "cat", "/sys/class/net/eth0/mtu")
        engine.cli("start", "-a", "old")
        network_id = engine.out("network", "inspect", "-f", "{{.Id}}", "bridge")
        restart(engine, "--ipv6", "--mtu=1280", "--icc=false")
        seen = bridge(engine)
        assert seen["mtu"] == 1280
        assert "192.168.90.1/24" in seen["addresses"]
        assert len(seen["addresses"]) == 2
        assert engine.out("network", "inspect", "-f", "{{.Id}}", "bridge") == network_id
        assert engine.out("start", "-a", "old") == "1280"
        assert "docker0" not in engine.in_namespace("nft", "list", "set", "ip", "ishmael", "same_bridge").stdout
        restart(engine, "--fixed-cidr=192.168.91.0/24", "--ip=127.0.0.1")
        assert bridge(engine) == {"mtu": 1500, "addresses": {"192.168.91.1/24"}}
        assert engine.out("start", "-a", "old") == "1500"
        engine.cli("run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sleep", "1000")
        assert engine.out("port", "web") == "80/tcp -> 127.0.0.1:8080"
        assert engine.replay("verify").returncode == 0


def test_while_containers_are_on_it_the_default_network_stays_as_it_is() -> None:
    """SYS-12."""
    with running_engine("--bip=192.168.90.1/24") as engine:
        engine.cli("run", "-d", "--name", "up", "busybox", "sleep", "1000")
        restart(engine, "--bip=192.168.95.1/24")
        assert bridge(engine)["addresses"] == {"192.168.90.1/24"}
        assert "containers are on the default network" in engine.log.read_text()
        engine.cli("rm", "-f", "up")
        restart(engine, "--bip=192.168.95.1/24")
        assert bridge(engine)["addresses"] == {"192.168.95.1/24"}


def test_an_administrators_bridge_is_used_and_left_alone() -> None:
    """NET-08: --bridge, whose addresses are the subnets."""
    engine = Engine("--bridge=mine", "--fixed-cidr=10.20.4.0/24")
    engine.in_namespace("ip", "link", "add", "mine", "type", "bridge")
    engine.in_namespace("ip", "addr", "add", "10.20.0.1/16", "dev", "mine")
    try:
        engine.start()
        engine.load_busybox()
        assert inside(engine, "hostname", "-i").startswith("10.20.4.")
        assert inside(engine, "ping", "-c1", "-W5", "10.20.0.1")
        assert not there(engine, "docker0")
        restart(engine)
        assert there(engine, "docker0")
        assert bridge(engine, "mine")["addresses"] == {"10.20.0.1/16"}
    finally:
        engine.close()


def test_without_a_default_network_containers_have_loopback_alone() -> None:
    """NET-19: --bridge=none."""
    with running_engine() as engine:
        engine.cli("create", "--name", "old", "busybox", "ls", "/sys/class/net")
        restart(engine, "--bridge=none")
        assert not there(engine, "docker0")
        assert engine.out("network", "ls", "--format", "{{.Name}}").split() == ["host", "none"]
        assert inside(engine, "ls", "/sys/class/net") == "lo"
        assert engine.out("start", "-a", "old") == "lo"
        engine.cli("network", "create", "own")
        assert "eth0" in engine.out("run", "--rm", "--network", "own", "busybox", "ls", "/sys/class/net")
        restart(engine)
        assert there(engine, "docker0")
        assert "eth0" in engine.out("start", "-a", "old")


def test_what_can_not_be_is_refused_at_the_start() -> None:
    """SYS-03."""
    with running_engine() as engine:
        assert "bridge device with non default name none0 must be created manually" in refused(engine, "--bridge=none0")
        assert "mutually exclusive" in refused(engine, "--bridge=br7", "--bip=10.0.0.1/24")
        words = refused(engine, "--bip=10.0.0.1/24", "--fixed-cidr=10.0.1.0/24")
        assert "10.0.1.0/24 is outside the default bridge's subnet" in words
        engine.in_namespace("ip", "link", "add", "bare", "type", "bridge")
        assert "bridge bare has no IPv4 address configured" in refused(engine, "--bridge=bare")


def test_new_networks_get_the_options_of_their_driver() -> None:
    """NET-08: --default-network-opt, in flags and in the file."""
    opts = {"bridge": {"com.docker.network.driver.mtu": "1300", "com.docker.network.bridge.enable_icc": "false"}}
    flags = [f"--default-network-opt={driver}={key}={value}" for driver in opts for key, value in opts[driver].items()]
    with running_engine(*flags) as engine:
        network_id = engine.out("network", "create", "own")
        assert bridge(engine, f"br-{network_id[:12]}")["mtu"] == 1300
        other = engine.out("network", "create", "-o", "com.docker.network.driver.mtu=1350", "other")
        assert bridge(engine, f"br-{other[:12]}")["mtu"] == 1350
        assert bridge(engine)["mtu"] == 1500
        shown = json.loads(engine.out("network", "inspect", "other"))[0]["Options"]
        assert shown["com.docker.network.bridge.enable_icc"] == "false"
        file = engine.root / "daemon.json"
        file.write_text(json.dumps({"default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1310"}}}))
        restart(engine, "--config-file", str(file))
        third = engine.out("network", "create", "third")
        assert bridge(engine, f"br-{third[:12]}")["mtu"] == 1310
