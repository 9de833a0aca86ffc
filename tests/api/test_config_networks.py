"""Configuration networks (NET-40): settings under a name, and networks that are made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.reactors.defaults import ensure_default_networks
from tests.support.served_engine import TestEngine, running_engine

IPAM = {"Config": [{"Subnet": "10.5.0.0/16", "IPRange": "10.5.1.0/24", "Gateway": "10.5.0.9"}]}
CONFIG = {"Name": "kept", "ConfigOnly": True, "IPAM": IPAM, "Options": {"o": "p"}, "Labels": {"a": "b"}}
FROM = {"Name": "made", "Driver": "bridge", "ConfigFrom": {"Network": "kept"}}


async def create(engine: TestEngine, *bodies: dict[str, Any]) -> dict[str, Any]:
    """What inspect shows of the last of the networks created."""
    for body in bodies:
        status, answer = await engine.ask("POST", "/networks/create", body)
        assert status == 201, answer
    status, shown = await engine.ask("GET", f"/networks/{bodies[-1]['Name']}")
    assert status == 200
    assert isinstance(shown, dict)
    return shown


async def test_a_configuration_takes_nothing_and_is_no_network(tmp_path: Path) -> None:
    """NET-40."""
    async with running_engine(tmp_path) as engine:
        shown = await create(engine, CONFIG)
        assert (shown["Driver"], shown["Scope"], shown["ConfigOnly"]) == ("null", "local", True)
        assert (shown["IPAM"]["Config"], shown["Options"], shown["Labels"]) == (IPAM["Config"], {"o": "p"}, {"a": "b"})
        # The subnet is free for another.
        await create(engine, {"Name": "other", "IPAM": {"Config": [{"Subnet": "10.5.0.0/16"}]}})
        assert (await engine.ask("POST", "/networks/prune"))[1]["NetworksDeleted"] == ["other"]


async def test_a_network_is_made_of_a_configuration(tmp_path: Path) -> None:
    """NET-40."""
    async with running_engine(tmp_path) as engine:
        shown = await create(engine, CONFIG, FROM)
        assert (shown["Driver"], shown["ConfigOnly"], shown["ConfigFrom"]) == ("bridge", False, {"Network": "kept"})
        assert (shown["IPAM"]["Config"], shown["Options"], shown["Labels"]) == (IPAM["Config"], {"o": "p"}, {"a": "b"})
        status, answer = await engine.ask("POST", "/networks/create", {**FROM, "Name": "second"})
        assert (status, answer["message"]) == (
            403,
            "invalid pool request: Pool overlaps with other one on this address space",
        )


async def test_a_configuration_stays_as_long_as_a_network_is_made_of_it(tmp_path: Path) -> None:
    """NET-40."""
    async with running_engine(tmp_path) as engine:
        await create(engine, CONFIG, FROM)
        status, answer = await engine.ask("DELETE", "/networks/kept")
        assert (status, answer["message"]) == (
            403,
            'error while removing network: configuration network "kept" is in use',
        )
        assert (await engine.ask("DELETE", "/networks/made"))[0] == 204
        assert (await engine.ask("DELETE", "/networks/kept"))[0] == 204


USER = "user-specified configurations are not supported if the network depends on a configuration network"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"ConfigOnly": True, "Internal": True}, "configuration network can only contain network specific fields."),
        ({"ConfigOnly": True, "Attachable": True}, "configuration network can only contain network specific fields."),
        ({"ConfigOnly": True, "ConfigFrom": {"Network": "kept"}}, "cannot depend on another configuration network"),
        ({"ConfigFrom": {"Network": "kept"}, "Labels": {"a": "c"}}, USER),
        ({"ConfigFrom": {"Network": "kept"}, "EnableIPv6": True}, USER),
        ({"ConfigFrom": {"Network": "kept"}, "IPAM": {"Config": [{"Subnet": "10.6.0.0/16"}]}}, USER),
        ({"ConfigFrom": {"Network": "kept"}, "Options": {"a": "b"}}, "network driver options are not supported if"),
    ],
)
async def test_what_does_not_go_together_is_forbidden(tmp_path: Path, body: dict[str, Any], words: str) -> None:
    """NET-40."""
    async with running_engine(tmp_path) as engine:
        await create(engine, CONFIG)
        status, answer = await engine.ask("POST", "/networks/create", {"Name": "x", **body})
        assert status == 403
        assert words in answer["message"]


async def test_a_network_is_not_made_of_a_network(tmp_path: Path) -> None:
    """NET-40."""
    async with running_engine(tmp_path) as engine:
        await ensure_default_networks(engine.hands, host_routes=())
        await create(engine, {"Name": "plain"})
        status, answer = await engine.ask("POST", "/networks/create", {"Name": "x", "ConfigFrom": {"Network": "plain"}})
        assert (status, answer["message"]) == (404, 'configuration network "plain" does not exist')
