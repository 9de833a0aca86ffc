"""Identifiers and digests as types, and the rules a user-chosen name must keep.

`ContainerID`, `NetworkID`, `ExecID` and `EndpointID` are 64 lower-case hexadecimal digits; `ImageID` is a Digest of
the image's configuration; `VolumeName` is the user's own. Nothing here makes an identifier: that is the shell's
(engine/entropy.py).
"""

from __future__ import annotations

import re
from typing import NewType

ContainerID = NewType("ContainerID", str)
NetworkID = NewType("NetworkID", str)
EndpointID = NewType("EndpointID", str)
ExecID = NewType("ExecID", str)
VolumeName = NewType("VolumeName", str)
Digest = NewType("Digest", str)
ImageID = NewType("ImageID", str)
DiffID = NewType("DiffID", str)
ChainID = NewType("ChainID", str)

RESTRICTED_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
"""Container and volume names (moby daemon/names.go)."""

SHA256_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

SHORT_ID_LENGTH = 12


def short(identifier: str) -> str:
    """The twelve digits people see: of `sha256:4f5e...` or `4f5e...` the first twelve after the algorithm."""
    return identifier.rpartition(":")[2][:SHORT_ID_LENGTH]
