"""What an engine that has been closed left on the machine: namespaces, mounts, cgroups and processes.

Owns: the look after the end, when the roots are deleted and there is no log left to compare with; a living engine is
compared with its log by audit.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import content, everybody


def container_ids(log: Path) -> set[str]:
    """The ids of all containers a log ever knew; none when there is no log."""
    if not log.exists():
        return set()
    with contextlib.closing(sqlite3.connect(f"file:{log}?mode=ro", uri=True)) as connection:
        query = "SELECT DISTINCT originator_id FROM stored_events WHERE originator_id LIKE 'container:%'"
        rows = connection.execute(query)
        return {row[0].partition(":")[2] for row in rows}


def leaks(namespace: str, root: Path, containers: set[str]) -> list[str]:
    """Sentences about what is still there; none when all is well."""
    return sorted([*_places(namespace, root), *_cgroups(containers), *_processes(root, containers)])


def _places(namespace: str, root: Path) -> Iterator[str]:
    if Path(f"/run/netns/{namespace}").exists():
        yield f"network namespace {namespace}"
    if root.exists():
        yield f"files in {root}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split()[4]
        if place == str(root) or place.startswith(f"{root}/"):
            yield f"mount on {place}"


def _cgroups(containers: set[str]) -> Iterator[str]:
    root = Path("/sys/fs/cgroup")
    for hierarchy in (root, *(path for path in root.iterdir() if path.is_dir())):
        with contextlib.suppress(OSError):
            for name in containers.intersection(os.listdir(hierarchy / "docker")):
                yield f"cgroup {hierarchy}/docker/{name}"
    for scope in root.glob("system.slice/docker-*.scope"):
        if scope.name.removeprefix("docker-").removesuffix(".scope") in containers:
            yield f"cgroup {scope}"


def _processes(root: Path, containers: set[str]) -> Iterator[str]:
    for pid, title in everybody("cmdline"):
        with contextlib.suppress(OSError):
            group = re.search(rb"/docker[/-]([0-9a-f]{64})", content(pid, "cgroup"))
            of_container = group is not None and group[1].decode() in containers
            if pid != os.getpid() and (f"{root}/".encode() in title or of_container):
                yield f"process {pid}: {title.replace(bytes(1), b' ').decode(errors='replace')[:80]}"
