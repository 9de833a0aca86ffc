"""Signed heads: a line that says how far the log went and what its seal was, which nobody can have made up later.

Owns: the line, its signature (ed25519), and the key's file. Kept elsewhere, a head proves every later rewrite of what
came before it: `replay verify --head` compares. Refuses to know: how the log is verified.

    ishmael-head:1:POSITION:SEAL:TIME_NS:PUBLIC_KEY:SIGNATURE        numbers decimal, the rest hexadecimal
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_LINE = re.compile(r"(ishmael-head:1:(\d+):([0-9a-f]{64}):(\d+):([0-9a-f]{64})):([0-9a-f]{128})")
_PLAIN = re.compile(r"(\d+):([0-9a-f]{64})")


class HeadError(ValueError):
    """No head, or not the signer's."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """seal, signer: hexadecimal. signer: the public key, "" for a head that nobody signed."""

    position: int
    seal: str
    time_ns: int = 0
    signer: str = ""


def sign(head: Head, key: Ed25519PrivateKey) -> str:
    """The line."""
    text = f"ishmael-head:1:{head.position}:{head.seal}:{head.time_ns}:{public_of(key)}"
    return f"{text}:{key.sign(text.encode()).hex()}"


def read(text: str, signer: str = "") -> Head:
    """A line, or POSITION:SEAL. signer: who must have signed it, "" for anybody. Raises HeadError."""
    text = text.strip()
    plain = _PLAIN.fullmatch(text)
    if plain is not None and not signer:
        return Head(position=int(plain[1]), seal=plain[2])
    match = _LINE.fullmatch(text)
    if match is None:
        raise HeadError(f"{text[:80]!r} is no {'signed ' if plain else ''}head")
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(match[5])).verify(bytes.fromhex(match[6]), match[1].encode())
    except InvalidSignature as error:
        raise HeadError(f"the signature of the head at {match[2]} is not right: the line was changed") from error
    if signer and match[5] != signer.lower():
        raise HeadError(f"the head at {match[2]} is signed by {match[5]}, not by {signer}")
    return Head(position=int(match[2]), seal=match[3], time_ns=int(match[4]), signer=match[5])


def read_all(value: str, signer: str = "") -> list[Head]:
    """Of a file with a head a line (empty ones and those with `#` do not count), or the one that the value is. Raises
    HeadError, OSError."""
    if _LINE.fullmatch(value.strip()) or _PLAIN.fullmatch(value.strip()):
        return [read(value, signer)]
    lines = [line.strip() for line in Path(value).read_text().splitlines()]
    found = [read(line, signer) for line in lines if line and not line.startswith("#")]
    if not found:
        raise HeadError(f"there is no head in {value}")
    return found


def new_key(path: Path) -> Ed25519PrivateKey:
    """Made and written with mode 0600 (PKCS #8, PEM). Raises OSError; never replaces a file."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    data = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """Raises HeadError, OSError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise HeadError(f"{path} is no private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise HeadError(f"{path} is no ed25519 key")
    return key


def public_of(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()
