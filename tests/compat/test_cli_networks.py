"""The Docker CLI against networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli_session import session

pytestmark = pytest.mark.root


async def test_networks(tmp_path: Path) -> None:
    async with session(tmp_path) as (docker, _, _):
        assert sorted((await docker("network", "ls", "--format", "{{.Name}}")).split()) == ["bridge", "host", "none"]
        identifier = await docker("network", "create", "--label", "a=b", "--subnet", "10.77.0.0/24", "web")
        assert len(identifier) == 64
        inspected = json.loads(await docker("network", "inspect", "web"))[0]
        assert inspected["IPAM"]["Config"] == [{"Subnet": "10.77.0.0/24", "Gateway": "10.77.0.1"}]
        assert "already exists" in await docker("network", "create", "web", fails=True)
        assert "Pool overlaps" in await docker("network", "create", "--subnet", "10.77.0.0/16", "other", fails=True)
        assert "pre-defined network" in await docker("network", "rm", "bridge", fails=True)
        assert await docker("network", "rm", "web") == "web"
        await docker("network", "create", "unused")
        assert "unused" in await docker("network", "prune", "-f")
