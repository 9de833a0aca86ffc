"""One engine per module, cleared after each test; an engine that raised is a failed test, whatever the client saw."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.engine import Engine, running_engine


@pytest.fixture(scope="module")
def module_engine() -> Iterator[Engine]:
    """Override it in a module that wants flags."""
    with running_engine() as engine:
        yield engine


@pytest.fixture
def engine(module_engine: Engine) -> Iterator[Engine]:
    """The module's engine, with busybox and nothing else when the test begins."""
    told = len(module_engine.log.read_text())
    yield module_engine
    clear(module_engine)
    complaints = module_engine.log.read_text()[told:]
    assert "Traceback" not in complaints, complaints[-6000:]


def clear(engine: Engine) -> None:
    """Remove every container, custom network and volume."""
    for row in engine.json("/containers/json?all=1"):
        status, body = engine.request("DELETE", f"/containers/{row['Id']}?force=1&v=1")
        assert status in (204, 404, 409), body
    engine.wait_for(lambda: not engine.json("/containers/json?all=1"))
    for network in engine.json("/networks"):
        if network["Name"] not in ("bridge", "host", "none"):
            engine.request("DELETE", f"/networks/{network['Id']}")
    for volume in engine.json("/volumes")["Volumes"] or ():
        engine.request("DELETE", f"/volumes/{volume['Name']}?force=1")
