"""What holds for the whole test session."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.containers import Harbour, harbour, make_busybox
from tests.support.engine import Engine

# Machines are shared and noisy: an example that takes long is no failure.
settings.register_profile("ishmael", deadline=None)
settings.load_profile("ishmael")

SETTLE_S = 10.0
"""How long killed processes and namespaces have to be gone: the kernel takes them apart in its own time."""


@pytest.fixture(scope="session", autouse=True)
def engines_leave_nothing_behind() -> Iterator[None]:
    """No namespace, mount, cgroup or process of any engine outlives the session."""
    yield
    deadline = time.monotonic() + SETTLE_S
    while left := [leak for engine in Engine.made for leak in engine.leaks()]:
        assert time.monotonic() < deadline, "engines under test left behind:\n" + "\n".join(left)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a busybox, for containers without an engine."""
    return make_busybox(tmp_path_factory.mktemp("layer"))


@pytest.fixture
async def port(tmp_path: Path, layer: Path) -> AsyncIterator[Harbour]:
    """The Linux runtime of the test's own, and what it starts."""
    async with harbour(tmp_path, layer) as opened:
        yield opened
