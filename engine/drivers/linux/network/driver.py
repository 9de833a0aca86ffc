"""The Linux network driver as one thing: what bootstrap makes and runs."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from engine.drivers.linux.network.networks import LinuxNetworks
from engine.drivers.linux.network.resolver import LinuxResolver
from engine.drivers.linux.network.sandboxes import LinuxSandboxes
from engine.drivers.linux.network.state import Kernel


class LinuxNetworking:
    """The three ports over one kernel. No I/O before `run`.

    pool_size: ready namespaces kept (about 100 KB of kernel memory each). sysctls: written into every namespace before
    anybody asks, so that a start that asks for the same needs no further hand-over."""

    def __init__(self, *, pool_size: int = 4, sysctls: Mapping[str, str] | None = None) -> None:
        self._kernel = Kernel(pool_size=pool_size, sysctls=sysctls or {})
        self.networks = LinuxNetworks(self._kernel)
        self.sandboxes = LinuxSandboxes(self._kernel)
        self.resolver = LinuxResolver(self._kernel)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Long-running: `await nursery.start(networking.run)`. When it ends, sockets, relays and pooled namespaces are
        given back; bridges, veths and elements stay, because containers go on."""
        try:
            await self._kernel.run(task_status)
        finally:
            self.sandboxes.let_all_go()
