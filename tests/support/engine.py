"""A whole engine for tests: `ishmaeld` in a network namespace of its own, with the real docker CLI and docker-py.

Every engine has its own roots, socket and namespace, so tests run side by side and nothing touches the host's
interfaces. `close` ends containers, supervisor and namespace, and `leaks` tells what is left.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import docker
import pytest

from tests.support.images import busybox_image
from tests.support.leaks import container_ids, leaks
from tests.support.processes import everybody
from tests.support.registry import tool

PATIENCE = float(os.environ.get("ISHMAEL_PATIENCE", "1"))
"""Multiplies every time limit of the tests' engines: an emulated machine is several times slower."""
START_S = 120.0 * PATIENCE
COMMAND_S = 120.0 * PATIENCE


class Engine:
    """One engine's life. `start` after `kill` or `stop` is a restart on the same roots."""

    made: ClassVar[list[Engine]] = []
    """Every engine of this test session: at its end, tests/conftest.py asks each what it left behind."""
    module = "engine"
    """What `python -m` runs."""

    def __init__(self, *flags: str, etc: Path | None = None, owner: str = "") -> None:
        """etc: what it sees as /etc. owner: `<uid>.<gid>` of its containers' root, when it is not the host's."""
        self.name = f"ishmael-{secrets.token_hex(4)}"
        self.root = Path(tempfile.mkdtemp(prefix="ishmael-test-"))
        self.data_root = self.root / "data" / owner
        self.exec_root = self.root / "exec" / owner
        self._etc = etc
        self.socket = self.root / "engine.sock"
        self.log = self.root / "engine.log"
        self.flags = flags
        self.process: subprocess.Popen[bytes] | None = None
        self.containers: set[str] = set()
        self.failures: list[str] = []
        self.made.append(self)
        _run("ip", "netns", "add", self.name)
        self.in_namespace("ip", "link", "set", "lo", "up")
        # A name server that never answers makes everything wait: nothing outside is reachable, at once.
        self.in_namespace("ip", "route", "add", "unreachable", "default")

    # -- the engine ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start and wait until it answers."""
        with contextlib.suppress(FileNotFoundError):
            self.socket.unlink()
        self.process = self.launch()
        deadline = time.monotonic() + START_S
        while True:
            if self.process.poll() is not None:
                raise AssertionError(f"the engine did not start:\n{self.log.read_text()[-4000:]}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request("GET", "/_ping")[0] == 200:
                    return
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.02)

    @property
    def arguments(self) -> list[str]:
        return [
            "-H", f"unix://{self.socket}", "--data-root", str(self.root / "data"),
            "--exec-root", str(self.root / "exec"), "--pidfile", str(self.root / "pid"), *self.flags,
        ]  # fmt: skip

    def launch(self) -> subprocess.Popen[bytes]:
        """A process of the engine, from now on."""
        command = ["nsenter", f"--net=/run/netns/{self.name}", sys.executable, "-m", self.module, *self.arguments]
        if self._etc is not None:
            covered = 'mount --bind "$0" /etc && exec "$@"'
            command = ["unshare", "-m", "--propagation", "slave", "sh", "-c", covered, str(self._etc), *command]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, env=self.surroundings, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def surroundings(self) -> dict[str, str]:
        """The engine's environment."""
        return dict(os.environ)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(60 * PATIENCE)
        self.process = None
        return status

    def restart(self) -> None:
        self.stop()
        self.start()

    # -- clients -------------------------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    def cli(
        self, *arguments: str, check: bool = True, data: str | None = None, timeout_s: float = COMMAND_S
    ) -> subprocess.CompletedProcess[str]:
        """Run the real docker CLI."""
        done = subprocess.run(
            [tool("docker"), *arguments], env=self.environment, input=data, capture_output=True, text=True,
            timeout=timeout_s, stdin=None if data is not None else subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"docker {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def out(self, *arguments: str, **options: Any) -> str:
        """The CLI's output, without the last newline."""
        return self.cli(*arguments, **options).stdout.rstrip("\n")

    @property
    def environment(self) -> dict[str, str]:
        config = self.root / "docker-config"
        config.mkdir(exist_ok=True)
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": str(config)}

    @contextlib.contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        client = docker.DockerClient(base_url=self.host, version="auto", timeout=60 * PATIENCE)
        try:
            yield client
        finally:
            client.close()

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """One raw request; (status, body)."""
        connection = _UnixConnection(str(self.socket))
        payload = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if payload is not None and not isinstance(body, bytes):
            headers.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, payload, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        status, body = self.request("GET", path)
        assert status == 200, body
        return json.loads(body)

    def create_exec(self, container: str, *command: str, **fields: Any) -> str:
        """The id of an exec that is made and not started."""
        status, body = self.request("POST", f"/containers/{container}/exec", {"Cmd": command, **fields})
        assert status == 201, body
        return str(json.loads(body)["Id"])

    def load_busybox(self) -> None:
        """The image `busybox:latest`, by `docker load`."""
        archive = self.root / "busybox.tar"
        archive.write_bytes(busybox_image().docker_archive("busybox:latest"))
        self.cli("load", "-q", "-i", str(archive))

    def in_namespace(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on the engine's own network."""
        return _run("nsenter", f"--net=/run/netns/{self.name}", *command, check=check)

    def wait_for(self, fact: Any, timeout_s: float = 20.0) -> Any:
        """Poll a fact of the outside world until it is truthy."""
        deadline = time.monotonic() + timeout_s * PATIENCE
        while not (value := fact()):
            assert time.monotonic() < deadline, "it did not come true"
            time.sleep(0.02)
        return value

    # -- the end -------------------------------------------------------------------------------------------------------

    def replay(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `replay` on this engine's log."""
        return _run(sys.executable, "-m", "replay", "--log", str(self.data_root / "events.db"), *arguments, check=False)

    def close(self) -> None:
        """Remove every container, end engine and supervisor, delete the namespace."""
        try:
            if self.process is not None and self.process.poll() is not None:
                self.process = None  # It died of a bug; what it left is cleared by another one.
            if self.process is None:
                self.start()
            ids = [row["Id"] for row in self.json("/containers/json?all=1")]
            for container_id in ids:
                self.request("DELETE", f"/containers/{container_id}?force=1&v=1")
            self.stop()
        finally:
            if self.process is not None:
                self.process.kill()
                self.process.wait()
            self.end_supervisor()
            self.failures = self.supervisor_failures()
            self.containers = container_ids(self.data_root / "events.db")
            _run("ip", "netns", "delete", self.name, check=False)
            shutil.rmtree(self.root, ignore_errors=True)

    def leaks(self) -> list[str]:
        """What is left after `close`, and what its supervisor stumbled over: sentences, none when all is well."""
        return leaks(self.name, self.root, self.containers) + self.failures

    def supervisor_failures(self) -> list[str]:
        """What the supervisors of this engine and their copiers wrote when a part of them failed."""
        log = self.exec_root / "supervisor.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        return [f"a supervisor failed: {text[-4000:]}"] if "Traceback" in text else []

    def container_leaks(self) -> list[str]:
        """What containers of the past hold while the engine runs."""
        return leaks("no-such-namespace", self.root, container_ids(self.data_root / "events.db"))

    def last_words(self) -> str:
        """The ends of the engine's log and of its supervisor's: what a failure shows, for `close` removes them."""
        logs = [self.log, self.exec_root / "supervisor.log"]
        return "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-4000:]}" for log in logs if log.exists())

    def supervisors(self) -> list[int]:
        """Pids of the supervisor and what it forked for itself."""
        root = str(self.exec_root).encode()
        titles = ((pid, title.split(b"\0")) for pid, title in everybody("cmdline") if root in title)
        return [pid for pid, words in titles if root in words and any(b"supervisor" in word for word in words)]

    def end_supervisor(self) -> None:
        for pid in self.supervisors():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=COMMAND_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=check, timeout=COMMAND_S)


@contextlib.contextmanager
def running_engine(*flags: str, etc: Path | None = None, owner: str = "") -> Iterator[Engine]:
    """An engine with busybox, for the length of the block."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    engine = Engine(*flags, etc=etc, owner=owner)
    try:
        engine.start()
        engine.load_busybox()
        yield engine
    except BaseException:
        print(engine.last_words())
        raise
    finally:
        engine.close()
