"""What a new volume may be called and told, in the words of moby's volume service and of its local driver.

Pure. Source: moby daemon/volume/service, daemon/volume/local.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values import go_values
from engine.aggregates.values.ids import RESTRICTED_NAME

LOCAL_OPTIONS = frozenset({"type", "o", "device", "size"})


def check_name(name: str) -> None:
    """Raises Rejected(INVALID) in the words of moby's volume service."""
    if len(name) == 1:
        words = "volume name is too short, names should be at least two alphanumeric characters"
        raise Rejected(Reason.INVALID, f"create {name}: {words}")
    if not RESTRICTED_NAME.fullmatch(name):
        raise Rejected(
            Reason.INVALID,
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path',
        )


def check_driver(name: str, driver: str, options: Mapping[str, str], *, quotas: bool) -> None:
    """The local driver is the only one; its options are checked before anything is recorded (VOL-07). quotas: whether
    volumes can be limited. Raises Rejected."""
    if driver != "local":
        raise Rejected(
            Reason.NOT_FOUND,
            f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found',
        )
    for option in options:
        if option not in LOCAL_OPTIONS:
            raise Rejected(Reason.INVALID, f'create {name}: invalid option: "{option}"')
    if options.get("size"):
        _check_size(name, options["size"], quotas=quotas)
    if (options.get("o") or options.get("device")) and not options.get("type"):
        raise Rejected(Reason.INVALID, f'create {name}: missing required option: "type"')
    if options.get("type") and not options.get("device"):
        raise Rejected(Reason.INVALID, f'create {name}: missing required option: "device"')


def _check_size(name: str, text: str, *, quotas: bool) -> None:
    try:
        size_bytes = go_values.binary_bytes(text)
    except ValueError as error:
        raise Rejected(Reason.INVALID, f"create {name}: {error}") from error
    if size_bytes and not quotas:
        raise Rejected(Reason.INVALID, f"create {name}: quota size requested but no quota support")
