"""A secret as the log may hold it: ciphertext under a key that lives outside the log.

Owns the value only. Sealing and opening are the shell's (engine/vault.py); here a secret is opaque bytes, so no
decider can leak what it cannot read. Erasing the owner's key erases every value sealed for it, and the hash chain
over the stored bytes still verifies.
"""

from __future__ import annotations

import msgspec


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """AES-256-GCM: `box` is the 12-byte nonce and the ciphertext with its tag; `owner` is the stream whose key seals
    it (`container:<id>`), bound to the ciphertext as associated data."""

    owner: str
    box: bytes
