"""The Docker CLI against volumes and disk usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli_session import session
from tests.support.images import busybox_image

pytestmark = pytest.mark.root


async def test_volumes_and_disk_usage(tmp_path: Path) -> None:
    """SYS-17, IMG-18."""
    async with session(tmp_path) as (docker, registry, _):
        registry.push("busybox", "latest", busybox_image())
        await docker("pull", "-q", f"{registry.address}/busybox")
        assert await docker("volume", "create", "data") == "data"
        assert "data" in await docker("volume", "ls", "-q")
        assert (await docker("volume", "inspect", "-f", "{{.Driver}}", "data")) == "local"
        usage = await docker("system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Active}}")
        assert usage.splitlines()[0] == "Images|1|0"
        assert "Local Volumes|1|0" in usage
        assert "data" in await docker("system", "df", "-v")
        assert "Total reclaimed space" in await docker("volume", "prune", "-a", "-f")
        assert await docker("volume", "ls", "-q") == ""
        assert "no such volume" in await docker("volume", "rm", "data", fails=True)
        assert "Total reclaimed space" in await docker("image", "prune", "-a", "-f")
        assert await docker("images", "-q") == ""
