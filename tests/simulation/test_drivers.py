"""The simulated drivers have the shape of the ports: a port that grows is noticed here, and not by a seed."""

from __future__ import annotations

import inspect
from random import Random
from typing import Any, get_type_hints

import pytest
import trio

from engine.surroundings import Drivers
from tests.simulation.drivers.together import simulated_drivers
from tests.simulation.faults import Faults, Gate
from tests.simulation.machine import Machine

NOT_ASKED_FOR = {
    "archives": "no simulated client loads or saves images",
    "files": "no simulated client copies files",
    "logs": "no simulated client reads logs",
    "process_table": "no simulated client asks for processes",
    "blobs": "images come from nowhere: only reading and discarding",
    "layers": "images have no layers: only looking and discarding",
    "rootfs": "nobody commits a container",
    "meter": "nobody watches statistics",
    "registry": "nobody reaches it",
}


@pytest.mark.parametrize("name", sorted({*Drivers.__struct_fields__} - {"begin", "let_go", *NOT_ASKED_FOR}))
async def test_a_simulated_driver_has_the_verbs_of_its_port(name: str) -> None:
    async with trio.open_nursery() as nursery:
        machine = Machine(Random(1), nursery, lambda: 1)
        driver: Any = getattr(simulated_drivers(machine, Gate(), Faults(Random(1))), name)
    port = get_type_hints(Drivers)[name]
    for verb, definition in inspect.getmembers(port, inspect.isfunction):
        if verb.startswith("_"):
            continue
        there = getattr(type(driver), verb)
        wanted = inspect.signature(definition).parameters
        assert list(inspect.signature(there).parameters) == list(wanted), verb
