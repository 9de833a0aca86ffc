"""The error taxonomy beside `Rejected` (aggregates/decider.py): what the world refused.

Three families exist. `Rejected`: a rule said no, before anything happened. `PortError`: the world said no, while an
effect was tried. Everything else is a bug: the task dies loudly, the log stays whole.
"""

from __future__ import annotations

import enum


class Fault(enum.Enum):
    """What kind of refusal a PortError is; engine/api/errors.py maps it to a status code."""

    SYSTEM = "system"  # 500
    INVALID = "invalid"  # 400: the request can not work on this host
    NOT_FOUND = "not found"  # 404
    CONFLICT = "conflict"  # 409
    FORBIDDEN = "forbidden"  # 403
    UNAUTHORIZED = "unauthorized"  # 401
    UNAVAILABLE = "unavailable"  # 503
    NOT_IMPLEMENTED = "not implemented"  # 501
    DISK_FULL = "disk full"  # 507 in spirit; Docker clients read 500


class PortError(Exception):
    """The world said no. `operation` names the verb, `errno` the kernel's number or 0; `retriable` says whether the
    same call may work later without anybody changing anything."""

    def __init__(
        self,
        operation: str,
        message: str,
        *,
        fault: Fault = Fault.SYSTEM,
        errno: int = 0,
        retriable: bool = False,
        exit_code: int = 0,
    ) -> None:
        super().__init__(message)
        self.operation = operation
        self.message = message
        self.fault = fault
        self.errno = errno
        self.retriable = retriable
        self.exit_code = exit_code
        """For a failed start: 126 (not executable), 127 (not found), 128 (anything else); 0 elsewhere."""

    def again(self) -> PortError:
        """The same refusal, for somebody else to raise: an exception gathers the history of whoever raises it."""
        return PortError(
            self.operation,
            self.message,
            fault=self.fault,
            errno=self.errno,
            retriable=self.retriable,
            exit_code=self.exit_code,
        )


class LogDamaged(PortError):  # noqa: N818 - it says what the log is
    """The log can not be opened because what it holds is not what was written: nothing may be appended to it."""
