"""What derived state is trusted by: the code that made it, and not the code beside it."""

from __future__ import annotations

import pytest

from engine.aggregates.catalog import ALL_DECIDERS
from engine.fingerprint import files_of
from engine.projections.containers import Containers
from engine.projections.events_feed import EventsFeed
from engine.projections.images import Images
from engine.projections.networks import Networks
from engine.projections.volumes import Volumes
from tests.architecture.imports import imports, modules

FOLDS = [*ALL_DECIDERS, Containers, Images, Networks, Volumes, EventsFeed]
BY_NAME = {decider.name: decider for decider in ALL_DECIDERS}


def names(fold: object) -> set[str]:
    return {str(file).rpartition("/engine/")[2] for file in files_of(fold)}  # type: ignore[arg-type]


def test_a_changed_aggregate_costs_nothing_of_another() -> None:
    assert "aggregates/image.py" in names(BY_NAME["image"])
    assert "aggregates/image.py" not in names(BY_NAME["container"]) | names(BY_NAME["network"]) | names(Networks)


def test_rules_that_only_decide_do_not_change_states() -> None:
    assert {"aggregates/container/state.py", "aggregates/values/config.py"} <= names(BY_NAME["container"])
    assert "aggregates/container/decide.py" not in names(BY_NAME["container"])


def test_a_changed_upcaster_costs_everything() -> None:
    assert all({"codec.py", "upcasters.py"} <= names(fold) for fold in FOLDS)


@pytest.mark.parametrize("fold", FOLDS, ids=lambda fold: getattr(fold, "name", "") or fold.__name__)
def test_everything_that_folding_code_imports_counts(fold: object) -> None:
    known = modules()
    files = files_of(fold)  # type: ignore[arg-type]
    for module, path in known.items():
        if path in files:
            for imported in imports()[module]:
                if imported.startswith(("engine.aggregates", "engine.projections")) and imported in known:
                    assert known[imported] in files, f"{module} imports {imported}"
