"""Every path of the Engine API is served or says that it is not there; none is forgotten, none is claimed twice."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter

from engine.api import routes
from engine.api.app import EngineApp, create_app
from tests.api.harness import context

PATHS = [line.split() for line in (Path(__file__).parent / "paths-v1.53.txt").read_text().splitlines()]
REGISTERED_BY_CREATE_APP = {"absent", "system", "events"}


@pytest.fixture(scope="module")
def app() -> EngineApp:
    """With the routes of every module of the package."""
    given = context(ports=SimpleNamespace(files=None))
    made = create_app(given)
    for module in pkgutil.iter_modules(routes.__path__):
        if module.name not in REGISTERED_BY_CREATE_APP:
            importlib.import_module(f"{routes.__name__}.{module.name}").register(made, given)
    return made


@pytest.mark.parametrize(("method", "path"), PATHS, ids=lambda part: str(part))
def test_every_path_leads_somewhere(app: EngineApp, method: str, path: str) -> None:
    adapter: MapAdapter = app.url_map.bind("engine")
    try:
        adapter.match(re.sub(r"\{[^}]*\}", "abc", path), method=method)
    except HTTPException as error:
        raise AssertionError(f"{method} {path}: {error.code}") from error


def test_no_path_is_claimed_twice(app: EngineApp) -> None:
    claims = [(str(rule), method) for rule in app.url_map.iter_rules() for method in rule.methods or ()]
    shared = {"OPTIONS", "HEAD"}  # werkzeug adds both: OPTIONS to all, HEAD to GET
    assert not {claim for claim in claims if claims.count(claim) > 1 and claim[1] not in shared}


def test_asking_for_the_head_of_an_archive_makes_no_archive(app: EngineApp) -> None:
    adapter: MapAdapter = app.url_map.bind("engine")
    endpoints = {method: adapter.match("/containers/abc/archive", method=method)[0] for method in ("HEAD", "GET")}
    assert endpoints["HEAD"] != endpoints["GET"]
