"""All aggregates of the engine, as the shell wants them: one tuple of deciders."""

from __future__ import annotations

from typing import Any

from engine.aggregates import content, daemon, drift, image, names, network, ports, prune, transfer, volume
from engine.aggregates import exec as exec_
from engine.aggregates.container import decide as container
from engine.aggregates.decider import Decider

ALL_DECIDERS: tuple[Decider[Any], ...] = (
    container.DECIDER,
    content.DECIDER,
    daemon.DECIDER,
    drift.DECIDER,
    exec_.DECIDER,
    image.DECIDER,
    names.DECIDER,
    network.DECIDER,
    ports.DECIDER,
    prune.DECIDER,
    transfer.DECIDER,
    volume.DECIDER,
)
