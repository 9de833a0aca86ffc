"""Telling systemd how we are: sd_notify(3) without its library."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)

READY = "READY=1"
STOPPING = "STOPPING=1"


def notify(state: str, environment: Mapping[str, str] | None = None) -> bool:
    """Send a state to the service manager; False when there is none. A manager that can not be reached is no reason to
    fail: it is only logged."""
    address = (os.environ if environment is None else environment).get("NOTIFY_SOCKET", "")
    if not address:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.send(state.encode())
    except OSError as error:
        log.warning("could not notify the service manager: %s", error)
        return False
    return True
