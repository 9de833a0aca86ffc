"""What a reload takes up, and how it is told."""

from __future__ import annotations

import logging

from engine.config import DaemonConfig, RuntimeConfig
from engine.reload import RELOADABLE, attributes, left_alone, log_level, reloaded


def test_only_what_can_be_reloaded_is_taken_up() -> None:
    """SYS-04."""
    read = DaemonConfig(labels=("a=b",), debug=True, icc=False, data_root="/elsewhere")
    now = reloaded(DaemonConfig(cgroup_driver="systemd"), read)
    assert now == DaemonConfig(labels=("a=b",), debug=True, cgroup_driver="systemd")
    assert left_alone(DaemonConfig(), read) == ("data_root", "icc")


def test_every_value_that_is_taken_up_is_told() -> None:
    """SYS-04: by its key in daemon.json."""
    config = DaemonConfig(runtimes={"a": RuntimeConfig(path="/a"), "b": RuntimeConfig(path="/b")})
    told = attributes(config)
    assert {name.removesuffix("_s").replace("_", "-") for name in RELOADABLE} == set(told)
    assert told["runtimes"] == "a:/a b:/b"
    assert told["labels"] == "[]"


def test_debug_is_louder_than_any_level() -> None:
    """SYS-04."""
    assert log_level(DaemonConfig(log_level="warn")) == logging.WARNING
    assert log_level(DaemonConfig(log_level="warn", debug=True)) == logging.DEBUG
