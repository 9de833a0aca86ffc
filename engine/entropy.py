"""Randomness, as something that is handed in: identifiers, keys, nonces, draws.

Owns the `Entropy` protocol and the system's implementation. The core makes no identifiers: they arrive in commands.
"""

from __future__ import annotations

import secrets
from typing import Protocol

ID_BYTES = 32


class Entropy(Protocol):
    """A source of randomness, fit for keys unless the implementation says otherwise."""

    def hex_id(self) -> str:
        """64 lower-case hexadecimal digits. Never all digits: Docker takes a purely numeric short id for a number
        (moby pkg/stringid GenerateRandomID)."""
        ...

    def token(self, size: int) -> bytes:
        """`size` random bytes."""
        ...

    def below(self, bound: int) -> int:
        """A uniform draw from 0 to bound - 1."""
        ...


class SystemEntropy:
    """The kernel's generator."""

    def hex_id(self) -> str:
        while True:
            identifier = secrets.token_hex(ID_BYTES)
            if not identifier[:12].isdecimal():
                return identifier

    def token(self, size: int) -> bytes:
        return secrets.token_bytes(size)

    def below(self, bound: int) -> int:
        return secrets.randbelow(bound)
