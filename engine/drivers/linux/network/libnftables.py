"""libnftables through ctypes: rulesets as text, listings as JSON.

Owns: finding the library, one context (which holds a netlink socket of the thread's namespace it was made in).
Refuses to know: what the rules say (ruleset.py). Not for the start of a container: elements.py is fifty times faster.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any

from engine.errors import Fault, PortError

_LIBRARIES = ("libnftables.so.1", "libnftables.so")
_OUTPUT_JSON = 1 << 4


class Nftables:
    """A libnftables context. Not thread-safe: used from one thread."""

    def __init__(self) -> None:
        self._library = _load()
        self._context = self._library.nft_ctx_new(0)
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def apply(self, commands: str) -> None:
        """Carry out nft commands as one transaction. Raises PortError with nft's words."""
        self._library.nft_ctx_output_set_flags(self._context, 0)
        self._run(commands)

    def listing(self, command: str) -> list[dict[str, Any]]:
        """The objects of a `list` command."""
        self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON)
        objects: list[dict[str, Any]] = json.loads(self._run(command) or '{"nftables": []}')["nftables"]
        return objects

    def rules(self, family: str, table: str, chain: str) -> list[str]:
        """The rules of a chain as nft writes them, in order."""
        self._library.nft_ctx_output_set_flags(self._context, 0)
        lines = [line.strip() for line in self._run(f"list chain {family} {table} {chain}").splitlines()]
        # The table's and the chain's own lines come first, a base chain's type after them, and two braces last.
        return [line for line in lines[2:-2] if not line.startswith("type ")]

    def _run(self, commands: str) -> str:
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        errors = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise PortError("nft", f"nftables refused the rules: {errors.decode(errors='replace').strip()}")
        text: str = output.decode(errors="replace")
        return text


def _load() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        break
    else:
        raise PortError("nft", "libnftables is not installed", fault=Fault.UNAVAILABLE)
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_new.restype = ctypes.c_void_p
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    return library
