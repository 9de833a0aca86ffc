"""Where a container's output lies on this host, as far as it can be read back. The paths are Docker's."""

from __future__ import annotations

import msgspec


class LogFile(msgspec.Struct, frozen=True, kw_only=True):
    """format: `json-file` or `local`. path: of the newest file; rotated ones lie beside it as `.1`, `.2.gz`."""

    format: str
    path: str


def log_file(driver: str, *, cached: bool, folder: str, container_id: str) -> LogFile | None:
    """The file of a driver's own, or the cache of one that cannot be read (`cached`); None when there is neither."""
    if driver == "json-file":
        return LogFile(format="json-file", path=f"{folder}/{container_id}-json.log")
    if driver == "local":
        return LogFile(format="local", path=f"{folder}/local-logs/container.log")
    if cached:
        return LogFile(format="local", path=f"{folder}/container-cached.log")
    return None
