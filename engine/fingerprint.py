"""A fingerprint of the code that folds: derived state is only trusted by the very code that made it.

Owns: which source files count. For each aggregate and each projection: the modules of its functions or classes, and
whatever these import of aggregates and projections, directly or not; for all of them what turns stored bytes into
events. So an upgrade that changes one aggregate costs what was derived from that one. Comparing code is coarser than
versions kept by hand, and can not be forgotten.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

import engine
from engine.aggregates.decider import Decider

_HOME = Path(engine.__file__).parents[1]
_FOLLOWED = ("engine.aggregates", "engine.projections")
_ALWAYS = ("engine.codec", "engine.upcasters")
_IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+(engine[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+(engine[\w.]*))", re.MULTILINE
)
_NAME = re.compile(rb"(\w+)(?:[ \t]+as[ \t]+\w+)?")


def fingerprint_of(folding: Decider[Any] | type) -> str:
    """Hexadecimal. folding: a decider (`initial`, `evolve`, `terminal` and events count), or a projection's class."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} msgspec {msgspec.__version__}".encode())
    for file in sorted(files_of(folding)):
        digest.update(f"{file.name}\0".encode())
        digest.update(_source(file))
    return digest.hexdigest()


def files_of(folding: Decider[Any] | type) -> frozenset[Path]:
    """The source files that decide what a fold gives."""
    if isinstance(folding, Decider):
        items: Iterable[Any] = (folding.initial, folding.evolve, folding.terminal, *folding.events)
    else:
        items = folding.__mro__
    roots = {sys.modules[item.__module__].__file__ for item in items if item.__module__ not in ("builtins", "typing")}
    waiting = [Path(file) for file in roots if file is not None]
    waiting += [file for module in _ALWAYS if (file := _file(module)) is not None]
    found: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imported(file)
    return frozenset(found)


@functools.cache
def _source(file: Path) -> bytes:
    return file.read_bytes()


@functools.cache
def _imported(file: Path) -> tuple[Path, ...]:
    """What a file imports of the followed packages, anywhere in it."""
    modules: set[str] = set()
    for base, names, plain in _IMPORT.findall(_source(file)):
        module = (base or plain).decode()
        modules.add(module)
        # A name may be a module: `from engine.aggregates import image`.
        modules.update(f"{module}.{name.decode()}" for name in _NAME.findall(names))
    return tuple(
        found for module in modules if module.startswith(_FOLLOWED) and (found := _file(module)) is not None
    )


@functools.cache
def _file(module: str) -> Path | None:
    path = _HOME.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
