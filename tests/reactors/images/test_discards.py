"""Discarding what nothing uses: the order of telling and doing."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.aggregates.values.ids import Digest
from engine.drivers.linux.storage.store import LinuxStorage
from engine.errors import Fault, PortError
from engine.reactors.images.discards import Discards
from tests.reactors.images.test_pull import once

pytestmark = pytest.mark.root


class FullLog:
    """Takes nothing until there is room: as long as a blob lies there."""

    def __init__(self, blob: Path) -> None:
        self._blob = blob
        self.told: list[str] = []

    async def report(self, reactor: str, correlation: str, decision: Any) -> None:
        await trio.lowlevel.checkpoint()
        if self._blob.exists():
            raise PortError("append", "disk is full", fault=Fault.DISK_FULL)
        self.told.append(decision.why)


async def test_on_a_full_disk_the_space_comes_before_the_telling(tmp_path: Path) -> None:
    """IMG-26."""
    storage = LinuxStorage(str(tmp_path))
    blob = await storage.blobs.ingest(once(b"of no use"))
    log = FullLog(Path(storage.blobs.path(blob.digest)))
    hands: Any = types.SimpleNamespace(report=log.report)
    discards = Discards(hands, storage.blobs, storage.layers)
    nothing = Digest("sha256:" + "ab" * 32)
    assert await discards.discard("tried", (blob.digest, nothing)) == 2
    assert not await storage.blobs.has(blob.digest)
    assert log.told == ["tried"]
