"""The pidfile: one engine per file (SYS-05).

A lock would be firmer, but other tools read dockerd's pidfile as a number and init scripts write nothing else; so the
rule is moby's (pkg/pidfile): a number of a living process that is not us refuses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from engine.config import ConfigError


@contextlib.contextmanager
def pidfile(path: str) -> Iterator[None]:
    """Hold the pidfile while the block runs; "" holds nothing. Raises ConfigError when a living engine has it."""
    if not path:
        yield
        return
    file = Path(path)
    _refuse_if_alive(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(str(os.getpid()))
    try:
        yield
    finally:
        if _read(file) == os.getpid():
            file.unlink(missing_ok=True)


def _refuse_if_alive(file: Path) -> None:
    pid = _read(file)
    if pid > 0 and pid != os.getpid() and _is_alive(pid):
        raise ConfigError(
            f"failed to start daemon, ensure docker is not running or delete {file}: "
            f"process with PID {pid} is still running"
        )


def _read(file: Path) -> int:
    try:
        return int(file.read_text().strip() or "0")
    except (OSError, ValueError):
        return 0


def _is_alive(pid: int) -> bool:
    """Zombies are not: nobody is left to write."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in ("Z", "X")
