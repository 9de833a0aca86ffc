"""Detach keys: `ctrl-p,ctrl-q` as the bytes a terminal sends. Source: moby/term ascii.go."""

from __future__ import annotations

from engine.aggregates.decider import Reason, Rejected

DEFAULT_KEYS = b"\x10\x11"
_CONTROL = {**{f"ctrl-{chr(letter)}": letter - 96 for letter in range(97, 123)}, "ctrl-@": 0, "ctrl-[": 27}
_CONTROL |= {"ctrl-\\": 28, "ctrl-]": 29, "ctrl-^": 30, "ctrl-_": 31, "DEL": 127}


def detach_keys(text: str, what: str = "detach") -> bytes:
    """The sequence; "" is the default. what: how moby calls them there. Raises Rejected(INVALID)."""
    if not text:
        return DEFAULT_KEYS
    keys = bytearray()
    for key in text.split(","):
        if key in _CONTROL:
            keys.append(_CONTROL[key])
        elif len(key) == 1 and key.isascii():
            keys.append(ord(key))
        else:
            raise Rejected(Reason.INVALID, f"Invalid {what} keys ({text}) provided")
    return bytes(keys)
