"""The driver macvlan: each container has a MAC address of its own on the parent interface.

Source: linux/if_link.h; moby daemon/libnetwork/drivers/macvlan.
"""

from __future__ import annotations

import struct

from engine.drivers.linux.network import netlink
from engine.drivers.ports.network import NetworkSpec
from engine.errors import Fault, PortError

MODE = "macvlan_mode"
_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
_IFLA_MACVLAN_MODE = 1


class Macvlan:
    kind = "macvlan"
    dummy = "dm-"

    def data(self, spec: NetworkSpec) -> bytes:
        mode = spec.options.get(MODE, "") or "bridge"
        if mode not in _MODES:
            words = f"requested macvlan mode '{mode}' is not valid, 'bridge' mode is the macvlan driver default"
            raise PortError("create", words, fault=Fault.INVALID)
        return netlink.attribute(_IFLA_MACVLAN_MODE, struct.pack("I", _MODES[mode]))
