"""A fingerprint of the code that folds: derived state is only trusted by the very code that made it.

Owns: which source files count. Everything under engine/aggregates, and the directory of each given object's module: a
fold may be spread over a package. Comparing code is coarser than versions kept by hand, and can not be forgotten; the
price is one rebuild of the views after an upgrade.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from engine import aggregates


def fingerprint_of(objects: Iterable[Any]) -> str:
    """Hexadecimal. `objects` are classes, functions, or Deciders (for which their `evolve` counts)."""
    directories: set[Path] = set()
    for item in objects:
        module = sys.modules.get(getattr(getattr(item, "evolve", item), "__module__", ""))
        if module is not None and module.__file__:
            directories.add(Path(module.__file__).parent)
    files = {file for directory in directories for file in directory.glob("*.py")}
    files.update(Path(next(iter(aggregates.__path__))).rglob("*.py"))
    digest = hashlib.sha256(f"{sys.version_info[:2]} msgspec {msgspec.__version__}".encode())
    for file in sorted(files):
        digest.update(f"{file.name}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
