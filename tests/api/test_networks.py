"""`/networks`: what a client notices of creating, listing, removing and pruning networks."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from engine.aggregates.container.commands import CreateContainer
from engine.aggregates.values.config import ContainerConfig, HostConfig
from engine.aggregates.values.ids import ContainerID, ImageID
from engine.reactors.defaults import ensure_default_networks
from tests.support.served_engine import TestEngine, running_engine


def query(**filters: Any) -> str:
    return urllib.parse.urlencode({"filters": json.dumps(filters)})


async def defaults(engine: TestEngine) -> None:
    await ensure_default_networks(engine.hands, host_routes=("192.0.2.0/24",))


async def test_a_created_network_has_the_first_free_subnet_and_is_made_before_the_answer(tmp_path: Path) -> None:
    """NET-09."""
    async with running_engine(tmp_path) as engine:
        status, body = await engine.ask("POST", "/networks/create", {"Name": "web", "Labels": {"a": "b"}})
        assert status == 201
        assert body["Warning"] == ""
        assert engine.networks.made[body["Id"]].subnets == ("172.17.0.0/16",)
        status, shown = await engine.ask("GET", f"/networks/{body['Id'][:8]}")
        assert status == 200
        assert shown["IPAM"] == {
            "Driver": "default",
            "Options": None,
            "Config": [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}],
        }
        assert (shown["Name"], shown["Driver"], shown["Scope"], shown["Labels"]) == (
            "web",
            "bridge",
            "local",
            {"a": "b"},
        )
        assert shown["Status"]["IPAM"]["Subnets"]["172.17.0.0/16"]["IPsInUse"] == 3
        # 172.18.0.0/16 is a route of the host here.
        status, body = await engine.ask("POST", "/networks/create", {"Name": "db"})
        assert engine.networks.made[body["Id"]].subnets == ("172.19.0.0/16",)


async def test_networks_created_at_the_same_time_do_not_overlap(tmp_path: Path) -> None:
    import trio

    async with running_engine(tmp_path) as engine:
        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(engine.ask, "POST", "/networks/create", {"Name": f"net{number}"})
        subnets = [spec.subnets for spec in engine.networks.made.values()]
        assert len(subnets) == len(set(subnets)) == 12


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"Name": ""}, 400, "invalid network name: name is empty"),
        ({"Name": "host"}, 403, "operation is not permitted on predefined host network "),
        (
            {"Name": "x", "Driver": "nonsense"},
            404,
            "could not find plugin nonsense in v1 plugin registry: plugin not found",
        ),
        ({"Name": "x", "Driver": "overlay"}, 501, "network driver overlay: not supported"),
        ({"Name": "x", "Driver": "host"}, 403, 'only one instance of "host" network is allowed'),
        ({"Name": "x", "EnableIPv4": False}, 400, "IPv4 or IPv6 must be enabled"),
        ({"Name": "x", "ConfigFrom": {"Network": "none"}}, 404, 'configuration network "none" does not exist'),
        (
            {"Name": "x", "IPAM": {"Config": [{"Subnet": "10.1.2.3/24", "Gateway": "10.9.0.1"}]}},
            400,
            "invalid network config:\ninvalid subnet 10.1.2.3/24: it should be 10.1.2.0/24\n"
            "invalid gateway 10.9.0.1: parent subnet 10.1.2.0/24 doesn't contain this address",
        ),
        (
            {"Name": "x", "IPAM": {"Config": [{"Subnet": "10.5.128.0/24"}]}},
            403,
            "invalid pool request: Pool overlaps with other one on this address space",
        ),
        ({"Name": "taken"}, 409, "network with name taken already exists"),
    ],
)
async def test_bad_wishes_are_refused_in_dockers_words(
    tmp_path: Path, body: dict[str, Any], status: int, words: str
) -> None:
    async with running_engine(tmp_path) as engine:
        taken = {"Name": "taken", "IPAM": {"Config": [{"Subnet": "10.5.0.0/16"}]}}
        assert (await engine.ask("POST", "/networks/create", taken))[0] == 201
        got, answer = await engine.ask("POST", "/networks/create", body)
        assert got == status, answer
        assert words in answer["message"]
        assert len(engine.networks.made) == 1


async def test_a_network_the_kernel_refuses_is_an_error_and_its_name_is_free_again(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as engine:
        engine.networks.refuse = "no more bridges"
        status, answer = await engine.ask("POST", "/networks/create", {"Name": "web"})
        assert (status, answer["message"]) == (500, "no more bridges")
        assert (await engine.ask("GET", "/networks/web"))[0] == 404
        assert (await engine.ask("POST", "/networks/create", {"Name": "web"}))[0] == 201


async def test_ipv6_gets_a_subnet_of_the_hosts_own_range(tmp_path: Path) -> None:
    """NET-12."""
    async with running_engine(tmp_path) as engine:
        _, body = await engine.ask("POST", "/networks/create", {"Name": "six", "EnableIPv6": True})
        four, six = engine.networks.made[body["Id"]].subnets
        assert four == "172.17.0.0/16"
        assert six.startswith("fd")
        assert six.endswith("/64")


async def test_delete_waits_for_the_kernel_and_frees_the_name(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as engine:
        assert (await engine.ask("POST", "/networks/create", {"Name": "web"}))[0] == 201
        assert (await engine.ask("DELETE", "/networks/web"))[0] == 204
        assert engine.networks.made == {}
        status, answer = await engine.ask("DELETE", "/networks/web")
        assert (status, answer["message"]) == (404, "network web not found")
        assert (await engine.ask("POST", "/networks/create", {"Name": "web"}))[0] == 201


async def test_the_default_networks_exist_once_and_can_not_be_removed(tmp_path: Path) -> None:
    """SYS-07."""
    async with running_engine(tmp_path, prepare=defaults) as engine:
        await engine.until(lambda: len(engine.networks.made) == 3)  # Made by the reactor, a moment after the start.
        await engine.until(lambda: all(state.settled for state in engine.hands.views.networks))
        await ensure_default_networks(engine.hands, host_routes=())
        status, networks = await engine.ask("GET", "/v1.51/networks")
        by_name = {network["Name"]: network for network in networks}
        assert status == 200
        assert len(networks) == 3
        assert set(by_name) == {"bridge", "host", "none"}
        assert [by_name[name]["Driver"] for name in ("bridge", "host", "none")] == ["bridge", "host", "null"]
        assert by_name["bridge"]["IPAM"]["Config"] == [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]
        assert by_name["bridge"]["Options"]["com.docker.network.bridge.name"] == "docker0"
        assert by_name["host"]["IPAM"]["Config"] is None
        assert by_name["host"]["Containers"] == {}
        status, answer = await engine.ask("DELETE", "/networks/bridge")
        assert (status, answer["message"]) == (403, "bridge is a pre-defined network and cannot be removed")


async def test_the_default_bridge_keeps_away_from_the_hosts_routes(tmp_path: Path) -> None:
    async def prepare(engine: TestEngine) -> None:
        await ensure_default_networks(engine.hands, host_routes=("172.17.4.0/24",))

    async with running_engine(tmp_path, prepare=prepare) as engine:
        _, shown = await engine.ask("GET", "/networks/bridge")
        assert shown["IPAM"]["Config"] == [{"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}]


async def test_lists_are_filtered(tmp_path: Path) -> None:
    async with running_engine(tmp_path, prepare=defaults) as engine:
        _, made = await engine.ask("POST", "/networks/create", {"Name": "web", "Labels": {"tier": "front"}})
        await engine.ask("POST", "/networks/create", {"Name": "webber"})

        async def names(**filters: Any) -> list[str]:
            status, found = await engine.ask("GET", f"/networks?{query(**filters)}")
            assert status == 200, found
            return sorted(network["Name"] for network in found)

        assert await names(type=["builtin"]) == ["bridge", "host", "none"]
        assert await names(name=["web"]) == ["web", "webber"]
        assert await names(label=["tier=front"]) == ["web"]
        assert await names(id=[made["Id"][:5]]) == ["web"]
        assert await names(driver=["null"]) == ["none"]
        assert await names(dangling=["true"]) == ["web", "webber"]
        assert await names(scope=["swarm"]) == []
        status, answer = await engine.ask("GET", f"/networks?{query(colour=['red'])}")
        assert (status, answer["message"]) == (400, "invalid filter 'colour'")


async def container(engine: TestEngine, name: str, mode: str = "bridge") -> str:
    container_id = ContainerID(engine.hands.entropy.hex_id())
    await engine.execute(
        CreateContainer(
            container_id=container_id,
            at=1,
            name=name,
            image_id=ImageID("sha256:" + "1" * 64),
            layers=(),
            config=ContainerConfig(),
            env=None,
            host=HostConfig(network_mode=mode),
            networks=(),
            mounts=(),
            platform="linux",
            runtime="native",
        )
    )
    return container_id


async def test_a_container_that_does_not_run_is_connected_and_disconnected_on_paper(tmp_path: Path) -> None:
    async with running_engine(tmp_path, prepare=defaults) as engine:
        container_id = await container(engine, "web1")
        await engine.ask("POST", "/networks/create", {"Name": "web"})
        wish = {"Container": "web1", "EndpointConfig": {"Aliases": ["www"]}}
        assert (await engine.ask("POST", "/networks/web/connect", wish))[0] == 200
        state = engine.hands.container(container_id)
        assert [(one.name, one.config.aliases) for one in state.networks] == [("web", ("www",))]
        assert (await engine.ask("POST", "/networks/web/connect", {"Container": "web1"}))[0] == 200
        assert engine.hands.container(container_id).networks == state.networks, "kept as it is, as moby does"
        status, answer = await engine.ask("POST", "/networks/prune")
        assert answer == {"NetworksDeleted": None}, "a network that somebody wishes for is not unused"
        gone = {"Container": "web1", "Force": False}
        assert (await engine.ask("POST", "/networks/web/disconnect", gone))[0] == 200
        assert engine.hands.container(container_id).networks == ()
        status, answer = await engine.ask("POST", "/networks/prune")
        assert answer == {"NetworksDeleted": ["web"]}


async def test_connects_that_can_not_be_are_refused(tmp_path: Path) -> None:
    async with running_engine(tmp_path, prepare=defaults) as engine:
        await container(engine, "plain")
        await container(engine, "hosted", mode="host")
        subnet = {"Config": [{"Subnet": "10.7.0.0/24"}]}
        await engine.ask("POST", "/networks/create", {"Name": "web", "IPAM": subnet})

        async def refusal(network: str, **wish: Any) -> tuple[int, str]:
            status, answer = await engine.ask("POST", f"/networks/{network}/connect", wish)
            return status, answer["message"]

        assert await refusal("web", Container="nobody") == (404, "No such container: nobody")
        assert (await refusal("nowhere", Container="plain"))[0] == 404
        assert (await refusal("host", Container="plain"))[0] == 400
        assert (await refusal("web", Container="hosted"))[0] == 400
        address = {"IPAMConfig": {"IPv4Address": "10.8.0.5"}}
        assert (await refusal("web", Container="plain", EndpointConfig=address))[0] == 400
        assert await refusal(
            "bridge", Container="plain", EndpointConfig={"IPAMConfig": {"IPv4Address": "172.17.0.9"}}
        ) == (
            400,
            "user specified IP address is supported on user defined networks only",
        )


async def test_a_beginning_that_several_ids_have_is_ambiguous(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as engine:
        for number in range(17):  # more than there are hexadecimal digits
            subnet = {"Config": [{"Subnet": f"10.7.{number}.0/24"}]}
            await engine.ask("POST", "/networks/create", {"Name": f"net{number}", "IPAM": subnet})
        starts = [network_id[0] for network_id in engine.networks.made]
        common = next(start for start in starts if starts.count(start) > 1)
        status, answer = await engine.ask("GET", f"/networks/{common}")
        assert status == 400
        assert answer["message"] == (
            f"network {common} is ambiguous ({starts.count(common)} matches found based on ID prefix)"
        )
