"""`ishmaeld erase`: destroy the keys of containers' sealed values, while no engine runs.

A removed container's keys are erased by the engine itself (engine/reactors/keys.py). This is for values that must go
while the container stays in the log as living, and for hosts whose engine will not run again. The log is not touched:
the stored bytes, and so the chain, stay as they are, and nobody can read them any more.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.config import DaemonConfig
from engine.errors import PortError


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0, 1 for a container that has no key, 2 when nothing could be done."""
    command = argparse.ArgumentParser(
        prog="ishmaeld erase",
        description="Destroy the keys of sealed values (environment, exec arguments) for good; no engine may run.",
    )
    command.add_argument("containers", nargs="+", metavar="CONTAINER", help="a whole id")
    command.add_argument("--data-root", default=DaemonConfig().data_root)
    given = command.parse_args(arguments)
    root = Path(given.data_root)
    try:
        lock = _locked(root)
        try:
            unknown = _erase(root, [f"container:{name.removeprefix('container:')}" for name in given.containers])
        finally:
            os.close(lock)
    except BlockingIOError:
        print(f"an engine runs on {root}: stop it, or remove the containers, which erases their keys", file=sys.stderr)
        return 2
    except (OSError, PortError) as error:
        print(error, file=sys.stderr)
        return 2
    for owner in unknown:
        print(f"{owner} has no key", file=sys.stderr)
    return 1 if unknown else 0


def _locked(root: Path) -> int:
    """The engine's own lock (bootstrap.py)."""
    lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _erase(root: Path, owners: Sequence[str]) -> list[str]:
    """Those that had none."""
    import trio

    from engine.entropy import SystemEntropy
    from engine.vault import Vault

    if not (root / "keys.db").exists():
        raise FileNotFoundError(f"there is no keys.db in {root}")

    async def run() -> list[str]:
        async with Vault(root / "keys.db", SystemEntropy()).running() as vault:
            known = set(vault.owners())
            await vault.erase(*known.intersection(owners))
            return [owner for owner in owners if owner not in known]

    return trio.run(run)
