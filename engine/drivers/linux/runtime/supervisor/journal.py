"""Exits on disk, one small file each, from the moment of reaping until the engine has them in its log.

File name: `<container id>.<run>[.<exec id>]`; content: exit code, OOM flag, time in ns, and a checksum (a wrong code
would be worse than none), which files of older supervisors lack. An exit that finds no room on the disk waits in memory
and is written as soon as there is some; an engine that is connected hears of it anyway.
Refuses to know: who is connected; the caller says whether the exit must survive a power cut at once.
"""

from __future__ import annotations

import binascii
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Journal:
    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._waiting: dict[str, tuple[bytes, bool]] = {}

    def record(self, exit_: dict[str, Any], *, durable: bool) -> None:
        path = self._path(exit_["container_id"], exit_["run"], exit_["exec_id"])
        text = b"%d %d %d\n" % (exit_["exit_code"], exit_["oom_killed"], exit_["finished_at_ns"])
        self._waiting[path] = _with_checksum(text), durable
        self.write()

    def write(self) -> bool:
        """Write what waits; True when nothing does any more. Never raises for the disk's sake: this process is the
        parent of every container."""
        for path, (text, durable) in list(self._waiting.items()):
            try:
                self._write(path, text, durable=durable)
            except OSError:
                return False
            del self._waiting[path]
        return True

    def _write(self, path: str, text: bytes, *, durable: bool) -> None:
        fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, text)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(path + ".new", path)
        if durable:
            directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def forget(self, container_id: str, run: int, exec_id: str) -> None:
        path = self._path(container_id, run, exec_id)
        unwritten = self._waiting.pop(path, None)
        for name in (path, path + ".new") if unwritten else (path,):
            try:
                os.unlink(name)
            except FileNotFoundError:
                continue

    def read(self) -> list[dict[str, Any]]:
        """All exits, oldest first. A damaged file (a power cut without fsync) is dropped: its container is reported
        lost."""
        os.makedirs(self.directory, 0o700, exist_ok=True)
        found = []
        for name in os.listdir(self.directory):
            parts = name.removesuffix(".new").split(".")
            try:
                with open(os.path.join(self.directory, name), "rb") as file:
                    text = file.read()
                code, oom, finished, *checksum = text.split()
                told = b"%s %s %s\n" % (code, oom, finished)
                if text != (_with_checksum(told) if checksum else told):
                    raise ValueError(name)
                if name.endswith(".new"):  # whole, but its writer did not live to rename it
                    os.rename(os.path.join(self.directory, name), os.path.join(self.directory, name[: -len(".new")]))
                found.append(
                    {
                        "container_id": parts[0],
                        "run": int(parts[1]),
                        "exec_id": parts[2] if len(parts) > 2 else "",
                        "exit_code": int(code),
                        "oom_killed": bool(int(oom)),
                        "finished_at_ns": int(finished),
                    }
                )
            except (ValueError, IndexError):
                os.unlink(os.path.join(self.directory, name))
        return sorted(found, key=lambda exit_: int(exit_["finished_at_ns"]))

    def _path(self, container_id: str, run: int, exec_id: str) -> str:
        return f"{self.directory}/{container_id}.{run}" + (f".{exec_id}" if exec_id else "")


def _with_checksum(text: bytes) -> bytes:
    return b"%s %08x\n" % (text.rstrip(b"\n"), binascii.crc32(text))
