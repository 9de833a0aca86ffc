"""Users looked up in a live container's own files."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from engine.drivers.linux.runtime.users import REST_NS, LinuxIdentities
from engine.drivers.ports.runtime import RootFilesystem
from tests.support.containers import Harbour

pytestmark = pytest.mark.root
NOWHERE = RootFilesystem(lowers=(), upper="", work="")


def write_passwd(pid: int, uid: int) -> None:
    """In a container: the user ahab."""
    path = Path(f"/proc/{pid}/root/etc/passwd")
    path.write_text(f"ahab:x:{uid}:7:captain:/home/{uid}:/bin/sh\n")


async def test_a_user_is_read_again_only_when_the_files_have_changed(port: Harbour) -> None:
    """EXE-03: and never a moment too late."""
    limiter = trio.CapacityLimiter(1)
    identities = LinuxIdentities(limiter)
    pid = await port.runtime.start(port.launch("sleep", "60"))
    write_passwd(pid, 11)
    assert (await identities.resolve("ahab", (), NOWHERE, pid=pid)).uid == 11
    write_passwd(pid, 22)  # of the same size, and within the same tick perhaps
    assert (await identities.resolve("ahab", (), NOWHERE, pid=pid)).uid == 22
    await trio.sleep(1.1 * REST_NS / 1e9)
    assert (await identities.resolve("ahab", (), NOWHERE, pid=pid)).uid == 22
    async with limiter:  # nobody may read now
        assert (await identities.resolve("ahab", (), NOWHERE, pid=pid)).home == "/home/22"
        write_passwd(pid, 33)
        with trio.move_on_after(0.1) as waiting:
            await identities.resolve("ahab", (), NOWHERE, pid=pid)
        assert waiting.cancelled_caught
    assert (await identities.resolve("ahab", (), NOWHERE, pid=pid)).uid == 33


async def test_files_that_are_mounted_are_read_each_time(port: Harbour, tmp_path: Path) -> None:
    """Their file system may be a server that does not answer."""
    limiter = trio.CapacityLimiter(1)
    identities = LinuxIdentities(limiter)
    passwd = tmp_path / "passwd"
    passwd.write_text("ahab:x:11:7::/:/bin/sh\n")
    launch = port.launch("sleep", "60")
    mount = {"destination": "/etc/passwd", "type": "bind", "source": str(passwd), "options": ["rbind", "ro"]}
    launch = replace(launch, spec={**launch.spec, "mounts": [*launch.spec["mounts"], mount]})
    pid = await port.runtime.start(launch)
    await trio.sleep(1.1 * REST_NS / 1e9)
    assert (await identities.resolve("ahab", (), NOWHERE, pid=pid)).uid == 11
    async with limiter:
        with trio.move_on_after(0.1) as waiting:
            await identities.resolve("ahab", (), NOWHERE, pid=pid)
        assert waiting.cancelled_caught
