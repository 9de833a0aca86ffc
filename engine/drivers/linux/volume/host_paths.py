"""Sources of bind mounts: made when `-v` names one that is missing, refused when `--mount` does."""

from __future__ import annotations

import errno
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
            raise _not_made(path, error.errno or 0) from error
        except RecursionError as error:  # one call for each folder of the path
            raise _not_made(path, errno.ENAMETOOLONG) from error
        except ValueError as error:  # a zero byte
            raise _not_made(path, errno.EINVAL) from error


def _not_made(path: str, number: int) -> PortError:
    words = os.strerror(number).lower()
    return PortError(
        "bind", f"error while creating mount source path '{path}': mkdir {path}: {words}", errno=number
    )
