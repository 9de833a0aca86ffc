"""A runtime of the test's own, and an image for what it starts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.containers import Harbour, harbour, make_busybox


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_busybox(tmp_path_factory.mktemp("layer"))


@pytest.fixture
async def port(tmp_path: Path, layer: Path) -> AsyncIterator[Harbour]:
    async with harbour(tmp_path, layer) as opened:
        yield opened
