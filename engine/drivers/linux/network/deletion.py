"""Links deleted without waiting for what the kernel does once nobody can find them.

The kernel acknowledges RTM_DELLINK when the last reference has been given back: a grace period of RCU and a barrier
later, some 20 ms for a veth and 40 for a bridge. The link itself is out of every table after the first: it carries
nothing, has no name and no address. What remains is done by the thread that asked, inside its system call, so not even
an engine that is killed meanwhile leaves a link half deleted.

Owns: threads that wait in the caller's stead. Refuses to know: which links.
"""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

from engine.drivers.linux.network import links, netlink

AT_ONCE = 4
"""Deletions whose rest is waited for; the next one waits with its caller."""
_LOOK_S = 0.0002


class LinkDeletions:
    """Used from one thread, which is at home: the threads made here stay in its network namespace."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="network-deletions")

    def close(self) -> None:
        """Waits for the rest of all."""
        self._threads.shutdown()

    def delete(self, name: str) -> None:
        """Returns when nobody finds the link any more. Idempotent. Raises OSError."""
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            return
        self.delete_at(index)

    def delete_at(self, index: int) -> None:
        """By index; see `delete`."""
        deletion = self._threads.submit(_delete, index)
        while not deletion.done() and _is_there(index):
            time.sleep(_LOOK_S)
        if deletion.done():
            deletion.result()


def _delete(index: int) -> None:
    with netlink.open_socket(netlink.ROUTE) as route:
        try:
            netlink.transact(route, [links.delete_link_at(index)])
        except netlink.Refused:
            if _is_there(index):
                raise


def _is_there(index: int) -> bool:
    """Asked without the RTNL lock, which the deletion holds."""
    try:
        socket.if_indextoname(index)
    except OSError:
        return False
    return True
