"""The hash chain over the stored events. Pure.

Owns: what a leaf and a seal are. A leaf is SHA-256 over the stored columns of one event; a seal is SHA-256 over the
previous seal, the positions of a commit and its leaves. Columns are length-prefixed, so that no byte can move from one
to the next unnoticed. The position is not in the leaf but in the order: an event that was moved keeps its leaf, and
can be named.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

HASH_BYTES = 32
GENESIS = bytes(HASH_BYTES)
"""The seal before the first commit."""

_LEAF = struct.Struct(">QII")
_SPAN = struct.Struct(">QQ")

CREATE_TABLE = "CREATE TABLE IF NOT EXISTS chain (first INTEGER PRIMARY KEY, last INTEGER, leaves BLOB, seal BLOB)"


def leaf(stream: bytes, version: int, topic: bytes, state: bytes) -> bytes:
    """The hash of one event as stored."""
    return hashlib.sha256(_LEAF.pack(version, len(stream), len(topic)) + stream + topic + state).digest()


def seal(previous: bytes, first: int, last: int, leaves: bytes) -> bytes:
    """The hash of one commit: positions first..last, with their concatenated leaves."""
    return hashlib.sha256(previous + _SPAN.pack(first, last) + leaves).digest()


def split_leaves(leaves: bytes) -> Sequence[bytes]:
    return [leaves[start : start + HASH_BYTES] for start in range(0, len(leaves), HASH_BYTES)]
