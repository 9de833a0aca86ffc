"""Containers run by runc or crun: the host's, those of .tools, or those that ISHMAEL_TEST_RUNTIMES names."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from engine.drivers.linux import apparmor
from engine.drivers.ports.runtime import Stdio
from engine.errors import PortError
from tests.support.containers import Harbour, logged
from tests.support.registry import TOOLS

pytestmark = pytest.mark.root


def runtimes() -> list[str]:
    named = [path for path in os.environ.get("ISHMAEL_TEST_RUNTIMES", "").split(":") if path]
    found = (shutil.which(name) or shutil.which(name, path=str(TOOLS)) for name in ("runc", "crun"))
    return named or [path for path in found if path and runs(path)]


def runs(path: str) -> bool:
    """A program of .tools may lack a library that its package would have brought."""
    return subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0


@pytest.fixture(params=runtimes() or [pytest.param("", marks=pytest.mark.skip(reason="no runc or crun here"))])
async def binary(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_output_and_exit_code(port: Harbour, binary: str) -> None:
    launch = port.launch("sh", "-c", "echo ahoy; hostname; exit 6", runtime=binary)
    assert await port.run(launch) == (6, f"ahoy\n{launch.container_id[:12]}\n")
    assert launch.container_id not in Path("/proc/self/mountinfo").read_text()


async def test_a_missing_program_is_127(port: Harbour, binary: str) -> None:
    launch = port.launch("nosuchcmd", runtime=binary)
    with pytest.raises(PortError, match="executable file .*not found in") as caught:
        await port.runtime.start(launch)
    assert caught.value.exit_code == 127


async def test_a_mount_that_only_the_native_runtime_can_make_is_refused(port: Harbour, binary: str) -> None:
    """Not mounted as a whole instead."""
    launch = port.launch("true", runtime=binary)
    mount = {"destination": "/m", "type": "bind", "source": "/", "options": ["rbind"], "subpath": "etc"}
    launch = replace(launch, spec={**launch.spec, "mounts": [*launch.spec["mounts"], mount]})
    with pytest.raises(PortError, match="a subpath or of an image .* is not implemented"):
        await port.runtime.start(launch)


async def test_exec_signals_and_the_bundles_end(port: Harbour, binary: str) -> None:
    launch = port.launch("sleep", "60", runtime=binary)
    await port.runtime.start(launch)
    command = port.exec_of(launch, "sh", "-c", "echo inside > /tmp/note; exit 4")
    await port.runtime.execute(command)
    assert (await port.exit_of(launch, command.exec_id)).exit_code == 4
    assert (Path(launch.rootfs.upper) / "tmp/note").read_text() == "inside\n"
    await port.runtime.signal(launch.container_id, 9)
    assert (await port.exit_of(launch)).exit_code == 137
    with trio.fail_after(5):
        while list((port.directory / "exec/bundles").iterdir()):
            await trio.sleep(0.02)


async def test_a_terminal(port: Harbour, binary: str) -> None:
    launch = port.launch("sh", "-c", "tty", stdio=Stdio(tty=True), runtime=binary)
    await port.run(launch)
    assert logged(launch) == "/dev/pts/0\r\n"


async def test_a_user_namespace_is_refused(port: Harbour, binary: str) -> None:
    """SEC-10: said before anything happens, not left out."""
    launch = port.launch("true", runtime=binary)
    launch.spec["linux"]["namespaces"].append({"type": "user"})
    with pytest.raises(PortError, match="a user namespace with the runtime .* is not implemented"):
        await port.runtime.start(launch)


async def test_an_apparmor_profile_reaches_it(port: Harbour, binary: str) -> None:
    """SEC-04: by the specification; without AppArmor the runtime itself refuses it."""
    if apparmor.parser_of():
        pytest.skip("this host has AppArmor: tests/compat/test_security_options.py")
    launch = port.launch("true", runtime=binary)
    launch.spec["process"]["apparmorProfile"] = "docker-default"
    with pytest.raises(PortError, match="(?i)apparmor"):
        await port.runtime.start(launch)
