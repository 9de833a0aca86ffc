"""Signals to a running engine: SIGHUP takes up what can be reloaded of daemon.json, SIGUSR1 says where it is."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine, running_engine

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("etc") / "daemon.json", {"labels": ["rack=1"]})


@pytest.fixture(scope="module")
def module_engine(file: Path) -> Iterator[Engine]:
    with running_engine("--config-file", str(file), "--max-concurrent-uploads", "2") as engine:
        yield engine


def write(file: Path, keys: dict[str, Any]) -> Path:
    file.write_text(json.dumps(keys))
    return file


def hang_up(engine: Engine, number: int = signal.SIGHUP) -> None:
    assert engine.process is not None
    os.kill(engine.process.pid, number)


def told(engine: Engine, since: float) -> list[dict[str, Any]]:
    lines = engine.out(
        "events", "--since", f"{since:.9f}", "--until", f"{time.time():.9f}", "--filter", "type=daemon",
        "--format", "{{json .}}",
    )  # fmt: skip
    return [json.loads(line) for line in lines.splitlines()]


def test_a_reload_is_in_force_and_told(engine: Engine, file: Path) -> None:
    """SYS-04, EVT-03: info shows it, the event daemon/reload carries the values, keys that are gone have their default
    again, flags stay, and an option that waits for a restart is named in the log."""
    since = time.time()
    assert engine.json("/info")["Labels"] == ["rack=1"]
    write(
        file,
        {
            "labels": ["rack=2", "row=b"],
            "debug": True,
            "live-restore": False,
            "registry-mirrors": ["https://mirror.example"],
            "insecure-registries": ["10.0.0.0/8", "old.example:5000"],
            "max-concurrent-downloads": 7,
            "shutdown-timeout": 4,
            "runtimes": {"other": {"path": "/usr/bin/other"}},
            "default-runtime": "other",
            "icc": False,
        },
    )
    hang_up(engine)
    engine.wait_for(lambda: told(engine, since))
    info = engine.json("/info")
    assert info["Labels"] == ["rack=2", "row=b"]
    assert (info["Debug"], info["LiveRestoreEnabled"], info["DefaultRuntime"]) == (True, False, "other")
    assert info["RegistryConfig"]["Mirrors"] == ["https://mirror.example"]
    assert "10.0.0.0/8" in info["RegistryConfig"]["InsecureRegistryCIDRs"]
    assert info["Runtimes"]["other"]["path"] == "/usr/bin/other"
    [message] = told(engine, since)
    assert (message["Type"], message["Action"], message["Actor"]["ID"]) == ("daemon", "reload", info["ID"])
    attributes = message["Actor"]["Attributes"]
    assert attributes["name"] == info["Name"]
    assert (attributes["labels"], attributes["debug"]) == ('["rack=2","row=b"]', "true")
    assert (attributes["max-concurrent-downloads"], attributes["max-concurrent-uploads"]) == ("7", "2")
    assert (attributes["shutdown-timeout"], attributes["live-restore"]) == ("4", "false")
    assert (attributes["runtimes"], attributes["default-runtime"]) == ("other:/usr/bin/other", "other")
    engine.cli("create", "--runtime", "other", "busybox")
    assert "restart of the engine: icc" in engine.log.read_text()
    write(file, {})
    hang_up(engine)
    engine.wait_for(lambda: engine.json("/info")["Labels"] == [])
    info = engine.json("/info")
    assert (info["Debug"], info["LiveRestoreEnabled"], info["DefaultRuntime"]) == (False, True, "native")
    assert engine.cli("create", "--runtime", "other", "busybox", check=False).returncode != 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "unable to configure the daemon with file"),
        ('{"labels": ["rack=1", "rack=2"]}', "conflict labels"),
        ('{"no-such-key": 1}', "no-such-key"),
        ('{"labels": ["x=y"], "default-runtime": "gone"}', "specified default runtime 'gone' does not exist"),
        ('{"max-concurrent-uploads": 3}', "max-concurrent-uploads"),
    ],
)
def test_a_file_that_cannot_be_used_changes_nothing(engine: Engine, file: Path, text: str, words: str) -> None:
    """SYS-04: it is told in the engine's log; there is no event, and the engine serves on."""
    since, seen = time.time(), len(engine.log.read_text())
    before = engine.json("/info")["Labels"]
    file.write_text(text)
    hang_up(engine)
    engine.wait_for(lambda: "is not reloaded" in engine.log.read_text()[seen:])
    assert words in engine.log.read_text()[seen:]
    assert engine.json("/info")["Labels"] == before
    assert told(engine, since) == []


def test_where_every_task_is_can_be_asked(engine: Engine) -> None:
    """SYS-14: a file under the exec root that only root reads, named in the log; no values in it."""
    engine.cli("run", "-d", "--name", "quiet", "-e", "PASSWORD=quiet44", "busybox", "sleep", "1000")
    seen = len(engine.log.read_text())
    hang_up(engine, signal.SIGUSR1)
    told = engine.wait_for(lambda: re.search(r"written to (\S+\.log)", engine.log.read_text()[seen:]))
    file = Path(told[1])
    assert file.parent == engine.exec_root
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert "task sampling" in text
    assert "in Lifecycle.run" in text
    assert "Current thread" in text
    assert "quiet44" not in text
