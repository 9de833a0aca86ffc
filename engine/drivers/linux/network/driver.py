"""The Linux network driver as one thing: what bootstrap makes and runs."""

from __future__ import annotations

import trio

from engine.drivers.linux.network.inspector import LinuxNetworkInspector
from engine.drivers.linux.network.networks import LinuxNetworks
from engine.drivers.linux.network.resolver import LinuxResolver
from engine.drivers.linux.network.sandboxes import LinuxSandboxes
from engine.drivers.linux.network.state import Kernel, NetworkingOptions

_DEFAULTS = NetworkingOptions()


class LinuxNetworking:
    """The network's ports over one kernel. No I/O before `run`."""

    def __init__(self, options: NetworkingOptions = _DEFAULTS) -> None:
        self._kernel = Kernel(options)
        self.networks = LinuxNetworks(self._kernel)
        self.sandboxes = LinuxSandboxes(self._kernel)
        self.resolver = LinuxResolver(self._kernel)
        self.inspector = LinuxNetworkInspector(self._kernel, self.networks, self.sandboxes)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Long-running: `await nursery.start(networking.run)`. When it ends, sockets, relays and pooled namespaces are
        given back; bridges, veths and elements stay, because containers go on."""
        try:
            await self._kernel.run(task_status)
        finally:
            self.sandboxes.let_all_go()
