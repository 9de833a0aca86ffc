"""The one-way rule (architecture.md): who may know whom, by the contracts and by the sources themselves."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.architecture.imports import ROOT, cycles, imports, modules, within

STORE_SHELL = frozenset({"engine.application", "engine.log_store", "engine.recorder", "engine.mapper", "engine.chain"})
PORTS = ("engine.drivers.ports",)
WORLDLY = ("trio", "eventsourcing", "sqlite3", "subprocess", "socket", "time", "os", "random")
CONCRETE = ("engine.drivers.linux", "engine.drivers.registry")
VALUES = ("engine.aggregates.values", "engine.aggregates.decider")


def importing(*packages: str) -> list[tuple[str, str]]:
    """(module, imported) of every module in the packages, imported ones of ours only."""
    return [
        (name, other)
        for name, others in imports().items()
        if within(name, *packages)
        for other in sorted(others)
        if within(other, "engine", "replay")
    ]


def test_the_contracts_of_the_import_linter_are_kept() -> None:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 broken" in ran.stdout


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert cycles(imports()) == []


def test_circles_are_found_where_there_are_some() -> None:
    graph = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"a", "os"}), "d": frozenset({"a"})}
    assert cycles(graph) == [["a", "b", "c"]]


def test_aggregates_import_nothing_of_the_engine_but_aggregates() -> None:
    assert [pair for pair in importing("engine.aggregates") if not within(pair[1], "engine.aggregates")] == []


def test_values_know_no_aggregate() -> None:
    assert [pair for pair in importing("engine.aggregates.values") if not within(pair[1], *VALUES)] == []


@pytest.mark.parametrize("library", WORLDLY)
def test_the_pure_core_asks_the_world_for_nothing(library: str) -> None:
    pure = [*(name for name in imports() if within(name, "engine.aggregates", "engine.oci")), "engine.transactions"]
    assert [name for name in pure if any(within(other, library) for other in imports()[name])] == []


def test_drivers_know_values_and_no_events() -> None:
    drivers = importing("engine.drivers")
    of_aggregates = [pair for pair in drivers if within(pair[1], "engine.aggregates") and not within(pair[1], *VALUES)]
    allowed = {"engine.aggregates.container.rules"}  # what configurations are legal, told about a host
    assert [pair for pair in of_aggregates if pair[1] not in allowed] == []


def test_ports_know_no_driver() -> None:
    assert [pair for pair in importing(*PORTS) if within(pair[1], *CONCRETE)] == []


def test_reactors_and_the_api_know_ports_and_no_concrete_driver() -> None:
    assert [pair for pair in importing("engine.reactors", "engine.api") if within(pair[1], *CONCRETE)] == []


def test_only_the_bootstrap_names_concrete_drivers() -> None:
    naming = {importer for importer, imported in importing("engine", "replay") if within(imported, *CONCRETE)}
    assert {name for name in naming if not within(name, "engine.drivers")} == {"engine.bootstrap"}


def test_projections_know_aggregates_and_no_port() -> None:
    known = ("engine.aggregates", "engine.projections")
    assert [pair for pair in importing("engine.projections") if not within(pair[1], *known)] == []


def test_the_engine_does_not_know_its_reader() -> None:
    assert [pair for pair in importing("engine") if within(pair[1], "replay")] == []


def test_only_the_shell_of_the_log_knows_the_event_store() -> None:
    knowing = {name for name, others in imports().items() if any(within(other, "eventsourcing") for other in others)}
    assert knowing <= STORE_SHELL


def test_nothing_runs_under_asyncio() -> None:
    assert [name for name, others in imports().items() if any(within(other, "asyncio") for other in others)] == []


def test_every_module_opens_with_a_header() -> None:
    silent = []
    for name, path in modules().items():
        tree = ast.parse(path.read_text())
        if tree.body and not ast.get_docstring(tree):
            silent.append(name)
    assert silent == []
