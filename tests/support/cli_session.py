"""An engine of parts in the test's own process, a registry beside it, and the Docker CLI that speaks to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from engine.drivers.registry.client import RegistryClient
from engine.drivers.registry.policy import RegistryPolicy
from engine.reactors.defaults import ensure_default_networks
from tests.support.registry import TestRegistry, running_registry, tool
from tests.support.served_engine import TestEngine, running_engine


class Cli:
    def __init__(self, engine: TestEngine, home: Path) -> None:
        self._program = shutil.which("docker") or tool("docker")
        self._environment = {
            "PATH": os.defpath,
            "HOME": str(home),
            "DOCKER_HOST": f"unix://{engine.served.path}",
            "DOCKER_CONFIG": str(home / "docker"),
        }

    async def __call__(self, *words: str, fails: bool = False) -> str:
        """Standard output; with `fails`, what it complains about."""
        run = partial(
            subprocess.run,
            [self._program, *words],
            env=self._environment,
            stdin=subprocess.DEVNULL,  # the CLI asks for a password where there is somebody to ask
            capture_output=True,
            text=True,
            timeout=60,
        )
        with trio.fail_after(90):
            done = await trio.to_thread.run_sync(run)
        assert (done.returncode != 0) is fails, f"docker {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stderr if fails else done.stdout.strip()


@asynccontextmanager
async def session(
    tmp_path: Path, users: dict[str, str] | None = None
) -> AsyncIterator[tuple[Cli, TestRegistry, TestEngine]]:
    """users: of the registry, name -> password."""
    async def prepare(engine: TestEngine) -> None:
        await ensure_default_networks(engine.hands, host_routes=())

    with running_registry(tmp_path / "registry", users=users) as registry:
        async with RegistryClient(RegistryPolicy()) as client:
            async with running_engine(tmp_path / "data", registry_port=client, prepare=prepare) as engine:
                yield Cli(engine, tmp_path), registry, engine
