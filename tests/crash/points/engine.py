"""ishmaeld with a point before and after every append and every effect.

Appends are what the log's recorder writes; effects are the verbs of the ports, whatever driver is behind them.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, replace

from engine import bootstrap
from engine.drivers.linux.runtime import connection
from engine.recorder import LogRecorder
from engine.surroundings import Drivers
from tests.crash.points.control import Control

EFFECTS = (
    "runtime", "streams", "blobs", "layers", "archives", "rootfs", "files", "folders", "volumes", "host_paths",
    "networks", "sandboxes", "resolver", "registry",
)  # fmt: skip
TIMES = 3
"""The same verb again within one operation is a point of its own, up to the third time."""


class Pointed:
    """A driver whose verbs are points."""

    def __init__(self, driver: Any, port: str, control: Control) -> None:
        self._driver, self._port, self._control = driver, port, control

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._driver, name)
        if not inspect.iscoroutinefunction(verb):
            return verb

        @functools.wraps(verb)
        async def pointed(*arguments: Any, **options: Any) -> Any:
            self._control.point(f"before {self._port}.{name}", TIMES)
            result = await verb(*arguments, **options)
            self._control.point(f"after {self._port}.{name}", TIMES)
            return result

        return pointed


class Elsewhere:
    """In place of `importlib.resources`, where the engine looks for the supervisor's program."""

    @staticmethod
    def files(package: str) -> Path:
        return Path(__file__).parent


def with_points(control: Control) -> None:
    made, insert = bootstrap._drivers, LogRecorder.insert_events

    def drivers(*arguments: Any, **options: Any) -> Drivers:
        real = made(*arguments, **options)
        fields = asdict(real)
        return replace(real, **{port: Pointed(fields[port], port, control) for port in EFFECTS})

    def insert_events(self: LogRecorder, *arguments: Any, **options: Any) -> Any:
        control.point("before append", TIMES)
        positions = insert(self, *arguments, **options)
        control.point("after append", TIMES)
        return positions

    bootstrap._drivers = drivers
    LogRecorder.insert_events = insert_events  # type: ignore[method-assign]
    connection.package_data = Elsewhere  # type: ignore[misc, assignment]
