"""One run of `replay`: what every question may use."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from engine.aggregates.catalog import ALL_DECIDERS
from engine.clock import Clock
from replay import render
from replay.moments import Moment, moment
from replay.reader import LogReader
from replay.world import World, world_at


class Question:
    """One run: the arguments, the open log, and where answers go."""

    def __init__(self, arguments: argparse.Namespace, reader: LogReader, clock: Clock) -> None:
        self.arguments = arguments
        self.reader = reader
        self.clock = clock
        self.out = render.console()

    def moment(self, text: str) -> Moment:
        return moment(text, self.reader, self.clock)

    def world(self, position: int | None = None, *, tolerant: bool = False) -> World:
        upto = self.reader.head if position is None else position
        return world_at(self.reader, ALL_DECIDERS, upto, tolerant=tolerant)

    def print_json(self, value: Any) -> None:
        json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")

    def first(self, since: str) -> int:
        """The first position of `--since`: what happened at that very moment belongs to it."""
        if not since:
            return 1
        start = self.moment(since)
        return start.position if start.by_position else self.reader.position_at(start.time_ns - 1) + 1
