"""The driver ipvlan: containers share the parent's MAC address and are told apart by their own addresses.

Source: linux/if_link.h; moby daemon/libnetwork/drivers/ipvlan.
"""

from __future__ import annotations

import struct

from engine.drivers.linux.network import netlink
from engine.drivers.ports.network import NetworkSpec
from engine.errors import Fault, PortError

MODE, FLAG = "ipvlan_mode", "ipvlan_flag"
_MODES = {"l2": 0, "l3": 1, "l3s": 2}
_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}
_IFLA_IPVLAN_MODE, _IFLA_IPVLAN_FLAGS = 1, 2


class Ipvlan:
    kind = "ipvlan"
    dummy = "di-"

    def data(self, spec: NetworkSpec) -> bytes:
        mode, flag = spec.options.get(MODE, "") or "l2", spec.options.get(FLAG, "") or "bridge"
        if mode not in _MODES:
            raise _invalid(f"requested ipvlan mode '{mode}' is not valid, 'l2' mode is the ipvlan driver default")
        if flag not in _FLAGS:
            raise _invalid(f"requested ipvlan flag '{flag}' is not valid, 'bridge' is the ipvlan driver default")
        return netlink.attribute(_IFLA_IPVLAN_MODE, struct.pack("H", _MODES[mode])) + netlink.attribute(
            _IFLA_IPVLAN_FLAGS, struct.pack("H", _FLAGS[flag])
        )


def _invalid(words: str) -> PortError:
    return PortError("create", words, fault=Fault.INVALID)
