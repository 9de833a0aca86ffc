"""`docker compose` in a folder of its own, against an engine under test."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine
from tests.support.registry import tool

PLUGIN = Path(__file__).parents[2] / ".tools" / "usr" / "libexec" / "docker" / "cli-plugins" / "docker-compose"
TIMEOUT_S = 120.0
CLEAR_LINE = "\x1b[2K"
"""Compose writes it before log lines, whatever `--ansi` says."""


def install_plugin(engine: Engine) -> None:
    """Give the engine's CLI the plugin; skips the test where there is none."""
    plugins = Path(engine.environment["DOCKER_CONFIG"]) / "cli-plugins"
    if PLUGIN.exists() and not plugins.exists():
        plugins.mkdir()
        (plugins / PLUGIN.name).symlink_to(PLUGIN)
    if engine.cli("compose", "version", check=False).returncode:
        pytest.skip("no docker compose: run scripts/fetch-tools.sh")


class Project:
    """A compose file and what stands beside it. name: of the project, and of all that it makes."""

    def __init__(self, engine: Engine, folder: Path, name: str = "shop") -> None:
        self.engine = engine
        self.folder = folder
        self.name = name

    def write(self, **files: str) -> Project:
        """`compose` is the compose file; any other name a file beside it (`db_env` is db.env)."""
        for name, text in files.items():
            path = "compose.yaml" if name == "compose" else name.replace("_", ".")
            (self.folder / path).write_text(text)
        return self

    def __call__(self, *arguments: str, check: bool = True, data: str | None = None) -> str:
        """Run it; what it wrote to standard output."""
        done = self.run(*arguments, data=data)
        assert not check or done.returncode == 0, f"docker compose {arguments}: {done.stdout}{done.stderr}"
        return done.stdout.rstrip("\n")

    def run(self, *arguments: str, data: str | None = None) -> subprocess.CompletedProcess[str]:
        """With its streams and exit code."""
        done = self.engine.cli(*self._words(arguments), check=False, data=data, timeout_s=TIMEOUT_S)
        done.stdout = done.stdout.replace(CLEAR_LINE, "")
        return done

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A command that goes on until it is interrupted."""
        process = subprocess.Popen(
            [tool("docker"), *self._words(arguments)], env=self.engine.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.communicate(timeout=TIMEOUT_S)

    def _words(self, arguments: tuple[str, ...]) -> list[str]:
        return ["compose", "--project-directory", str(self.folder), "-p", self.name, "--ansi", "never", *arguments]

    def ids(self, *services: str) -> list[str]:
        return self("ps", "-aq", *services).splitlines()

    def rows(self) -> dict[str, dict[str, Any]]:
        """`ps -a` by container name."""
        rows = [json.loads(line) for line in self("ps", "-a", "--format", "json").splitlines()]
        return {row["Name"]: row for row in rows}

    def leftovers(self) -> list[str]:
        """What the engine still has that bears the project's label."""
        wanted = f"label=com.docker.compose.project={self.name}"
        return [
            line
            for kind in (("ps", "-a"), ("network", "ls"), ("volume", "ls"))
            for line in self.engine.out(*kind, "-q", "--filter", wanted).splitlines()
        ]
