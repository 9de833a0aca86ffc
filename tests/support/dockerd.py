"""Debian's dockerd: in a network namespace of somebody's, with roots and a socket of its own, without a bridge or a
firewall; for images, not for containers that run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.engine import COMMAND_S, START_S
from tests.support.registry import TOOLS, tool


class Dockerd:
    def __init__(self, socket: Path, config: Path) -> None:
        self._surroundings = {**os.environ, "DOCKER_HOST": f"unix://{socket}", "DOCKER_CONFIG": str(config)}

    def out(self, *words: str) -> str:
        """What the CLI says to it, without the last newline."""
        done = subprocess.run(
            [tool("docker"), *words], env=self._surroundings, capture_output=True, text=True, timeout=COMMAND_S,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
        return done.stdout.rstrip("\n")

    def answers(self) -> bool:
        with contextlib.suppress(AssertionError):
            return bool(self.out("version", "-f", "{{.Server.Version}}"))
        return False


@contextlib.contextmanager
def running_dockerd(namespace: str, directory: Path, *flags: str) -> Iterator[Dockerd]:
    """For the length of the block, on a named network where no engine is: it takes `docker0` away. Its mounts are seen
    by nobody else."""
    socket, log = directory / "docker.sock", directory / "log"
    directory.mkdir(parents=True, exist_ok=True)
    command = [
        "nsenter", f"--net=/run/netns/{namespace}", "unshare", "-m", tool("dockerd"), "-H", f"unix://{socket}",
        "--data-root", str(directory / "data"), "--exec-root", str(directory / "exec"), "--pidfile",
        str(directory / "pid"), "--bridge=none", "--iptables=false", "--ip6tables=false", *flags,
    ]  # fmt: skip
    path = f"{TOOLS}:{os.environ['PATH']}"
    libraries = ":".join(str(path) for path in (TOOLS.parent / "lib").glob("*-linux-gnu"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, "PATH": path, "LD_LIBRARY_PATH": libraries}, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        dockerd = Dockerd(socket, directory / "config")
        deadline = time.monotonic() + START_S
        while not dockerd.answers():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.1)
        yield dockerd
    finally:
        process.terminate()
        process.wait(60)
