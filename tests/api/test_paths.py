"""Every path of the Engine API is served or says that it is not there; none is forgotten, none is claimed twice."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.api import routes
from engine.api.app import EngineApp, create_app
from engine.api.responses import Response, empty
from engine.api.routing import NoRoute, Routes
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
    try:
        app.routes.match(method, re.sub(r"\{[^}]*\}", "abc", path))
    except NoRoute as error:
        raise AssertionError(f"{method} {path}") from error


def test_no_path_is_claimed_twice(app: EngineApp) -> None:
    claims = [(re.sub(r"<\w+>", "<>", rule.pattern), rule.method) for rule in app.routes]
    assert not {claim for claim in claims if claims.count(claim) > 1}


def test_asking_for_the_head_of_an_archive_makes_no_archive(app: EngineApp) -> None:
    views = {method: app.routes.match(method, "/containers/abc/archive")[0] for method in ("HEAD", "GET")}
    assert views["HEAD"] is not views["GET"]


@pytest.fixture(scope="module")
def table() -> Routes:
    made = Routes()
    for pattern in (
        "/things/<path:name>", "/things/json", "/things/<path:name>/json", "/things/<name>/files",
        "/things/<path:name>/files/<file>",
    ):  # fmt: skip
        made.add(pattern, Named(pattern), ["GET"])
    return made


class Named:
    """A view that can be told from others."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    async def __call__(self, **_: str) -> Response:
        return empty()


@pytest.mark.parametrize(
    ("path", "pattern", "arguments"),
    [
        ("/things/json", "/things/json", {}),
        ("/things/a", "/things/<path:name>", {"name": "a"}),
        ("/things/host:5000/a/b", "/things/<path:name>", {"name": "host:5000/a/b"}),
        ("/things/json/json", "/things/<path:name>/json", {"name": "json"}),
        ("/things/a/b/json", "/things/<path:name>/json", {"name": "a/b"}),
        ("/things/a/files", "/things/<name>/files", {"name": "a"}),
        ("/things/a/b/files", "/things/<path:name>", {"name": "a/b/files"}),
        ("/things/a/b/files/c", "/things/<path:name>/files/<file>", {"name": "a/b", "file": "c"}),
        ("/things/a//b", "/things/<path:name>", {"name": "a//b"}),
        ("/things/a/", "/things/<path:name>", {"name": "a/"}),
    ],
)
def test_the_most_particular_pattern_answers(table: Routes, path: str, pattern: str, arguments: dict[str, str]) -> None:
    view, found = table.match("GET", path)
    assert (view.pattern, found) == (pattern, arguments)  # type: ignore[attr-defined]
    assert table.match("HEAD", path)[0] is view


@pytest.mark.parametrize("path", ["/things", "/things/", "/things//a", "/thing/a", "/", "", "/things//json"])
def test_what_no_pattern_fits_has_no_route(table: Routes, path: str) -> None:
    with pytest.raises(NoRoute):
        table.match("GET", path)
    with pytest.raises(NoRoute):
        table.match("POST", "/things/a")
