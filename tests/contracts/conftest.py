"""The Linux network driver in namespaces of its own: an empty one, and a small world with an outside host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.netns import World, open_world, own_network_namespace


@pytest.fixture
def namespace() -> Iterator[None]:
    with own_network_namespace():
        yield


@pytest.fixture
async def world(namespace: None) -> AsyncIterator[World]:
    async with open_world() as opened:
        yield opened
