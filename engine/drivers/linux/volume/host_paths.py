"""Sources of bind mounts: made when `-v` names one that is missing, refused when `--mount` does."""

from __future__ import annotations

import os

from engine.errors import Fault, PortError


class LinuxHostPaths:
    """The HostPaths port. Source of the words: moby volume/mounts/validate.go, linux_parser.go."""

    async def ensure(self, path: str, *, create: bool) -> None:
        if os.path.exists(path):
            return
        if not create:
            raise PortError(
                "bind",
                f'invalid mount config for type "bind": bind source path does not exist: {path}',
                fault=Fault.INVALID,
            )
        try:
            os.makedirs(path, 0o755, exist_ok=True)
        except OSError as error:
            raise PortError(
                "bind",
                f"error while creating mount source path '{path}': mkdir {path}: {(error.strerror or '').lower()}",
                errno=error.errno or 0,
            ) from error
