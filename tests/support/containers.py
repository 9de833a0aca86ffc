"""Real containers for tests: a busybox root file system, launches over it, a runtime of the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import trio

from engine.aggregates.values.config import ContainerConfig, HostConfig
from engine.aggregates.values.log_files import log_file
from engine.aggregates.values.log_subject import LogSubject
from engine.aggregates.values.mounts import MountPoint
from engine.drivers.linux.runtime.driver import LinuxRuntime
from engine.drivers.linux.runtime.seccomp import default_profile
from engine.drivers.ports.runtime import ExecLaunch, Exit, Launch, LogSpec, RootFilesystem, Stdio
from engine.oci import spec as oci

PASSWD = "root:x:0:0:root:/root:/bin/sh\nsailor:x:1000:1000::/home/sailor:/bin/sh\n"
GROUP = "root:x:0:\nsailor:x:1000:\ncrew:x:2000:sailor\n"
DEADLINE_S = 20


def make_busybox(directory: Path) -> Path:
    """A layer with a static busybox and its links."""
    binaries = directory / "bin"
    binaries.mkdir(parents=True)
    shutil.copy("/bin/busybox", binaries / "busybox")
    names = subprocess.run([binaries / "busybox", "--list"], capture_output=True, text=True, check=True).stdout
    for name in names.split():
        with contextlib.suppress(FileExistsError):
            (binaries / name).symlink_to("busybox")
    for name in ("etc", "tmp", "root", "home/sailor", "usr/bin"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "etc/passwd").write_text(PASSWD)
    (directory / "etc/group").write_text(GROUP)
    (directory / "etc/notes").write_text("not a program")
    (directory / "home/sailor").chmod(0o777)
    return directory


class Harbour:
    """A runtime and the launches of one test. Everything it starts is gone after the test."""

    def __init__(self, directory: Path, layer: Path) -> None:
        self.directory = directory
        self.layer = layer
        self.runtime = LinuxRuntime(str(directory / "exec"), str(directory / "data"))

    def launch(
        self,
        *args: str,
        config: ContainerConfig | None = None,
        host: HostConfig | None = None,
        identity: oci.Identity | None = None,
        shared: oci.Shared | None = None,
        mounts: tuple[MountPoint, ...] = (),
        env: tuple[str, ...] = (),
        stdio: Stdio | None = None,
        log: Mapping[str, str] | None = None,
        log_driver: str = "json-file",
        runtime: str = "native",
    ) -> Launch:
        container_id = secrets.token_hex(32)
        place = self.directory / "rootfs" / container_id
        for name in ("upper", "work"):
            (place / name).mkdir(parents=True)
        stdio = stdio or Stdio()
        config = config or ContainerConfig()
        given = oci.SpecInput(
            container_id=container_id,
            config=msgspec.structs.replace(config, cmd=args, hostname=container_id[:12], tty=stdio.tty),
            env=env,
            host=host or HostConfig(cgroupns_mode="private", ipc_mode="private", shm_size=64 << 20),
            identity=identity or oci.Identity(),
            mounts=mounts,
            files={},
            shared=shared or oci.Shared(),
            devices=(),
            traits=oci.HostTraits(
                machine=self.runtime.facts.machine,
                kernel=self.runtime.facts.kernel,
                cgroup_v2=self.runtime.facts.version == 2,
                profile=default_profile(),
            ),
        )
        return Launch(
            container_id=container_id,
            run=1,
            spec=oci.build_spec(given),
            rootfs=RootFilesystem(lowers=(str(self.layer),), upper=str(place / "upper"), work=str(place / "work")),
            stdio=stdio,
            log=self.log_of(container_id, log_driver, log or {}),
            runtime=runtime,
        )

    def log_of(self, container_id: str, driver: str, options: Mapping[str, str]) -> LogSpec:
        file = log_file(driver, cached=True, folder=str(self.directory), container_id=container_id)
        assert file is not None
        own = driver in ("json-file", "local")
        return LogSpec(
            driver=driver,
            path=file.path if own else "",
            cache_path="" if own else file.path,
            subject=LogSubject(config=options, container_id=container_id, name="boat", hostname="harbour"),
        )

    async def exit_of(self, launch: Launch, exec_id: str = "") -> Exit:
        with trio.fail_after(DEADLINE_S):
            async for exit_ in self.runtime.exits():
                if (exit_.container_id, exit_.run, exit_.exec_id) == (launch.container_id, launch.run, exec_id):
                    return exit_
        raise AssertionError("exits never end")

    async def run(self, launch: Launch) -> tuple[int, str]:
        """Start, wait, drain, forget: the exit code and what was logged (both streams, in order of writing)."""
        await self.runtime.start(launch)
        exit_ = await self.exit_of(launch)
        await self.runtime.drained(launch.container_id, launch.run)
        await self.runtime.forget(launch.container_id, launch.run)
        return exit_.exit_code, logged(launch)

    def exec_of(self, launch: Launch, *args: str, stdio: Stdio | None = None, **process: Any) -> ExecLaunch:
        return ExecLaunch(
            exec_id=secrets.token_hex(32),
            container_id=launch.container_id,
            process={**launch.spec["process"], "args": list(args), **process},
            stdio=stdio or Stdio(),
        )


def entries(launch: Launch) -> list[dict[str, str]]:
    with open(launch.log.path) as file:
        return [json.loads(line) for line in file]


def logged(launch: Launch, stream: str = "") -> str:
    return "".join(entry["log"] for entry in entries(launch) if stream in ("", entry["stream"]))


H = TypeVar("H", bound=Harbour)


@contextlib.asynccontextmanager
async def harbour(
    directory: Path, layer: Path, *, engine_dies: bool = False, kind: type[H] = Harbour  # type: ignore[assignment]
) -> AsyncIterator[H]:
    """engine_dies: leave the supervisor and its containers behind, for the next one on the same directory."""
    place = kind(directory, layer)
    async with trio.open_nursery() as nursery:
        await nursery.start(place.runtime.run)
        try:
            yield place
        finally:
            if engine_dies:
                place.runtime.let_go()
                nursery.cancel_scope.cancel()
                return
            with trio.move_on_after(DEADLINE_S) as scope:
                scope.shield = True
                await place.runtime.shutdown()
            nursery.cancel_scope.cancel()


class Client:
    """The far end of an attachment, as a CLI would hold it."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(self.near))

    async def read_all(self) -> bytes:
        with trio.fail_after(DEADLINE_S):
            return b"".join([chunk async for chunk in self.stream])

    async def read_until(self, text: bytes) -> bytes:
        seen = b""
        with trio.fail_after(DEADLINE_S):
            while text not in seen:
                chunk = await self.stream.receive_some()
                assert chunk, f"end of stream before {text!r}: {seen!r}"
                seen += chunk
        return seen

    def hand_over(self) -> int:
        return self.far.detach()


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Docker's multiplexed stream taken apart."""
    found = []
    while data:
        size = int.from_bytes(data[4:8], "big")
        found.append((data[0], data[8 : 8 + size]))
        data = data[8 + size :]
    return found


def cgroups_of(container_id: str) -> list[str]:
    root = "/sys/fs/cgroup"
    names = [root, *(os.path.join(root, name) for name in os.listdir(root))]
    return [path for name in names if os.path.isdir(path := f"{name}/docker/{container_id}")]
