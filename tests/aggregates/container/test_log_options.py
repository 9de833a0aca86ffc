"""Which options each log driver takes, what the daemon's defaults add, and what is refused in Docker's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.aggregates.container.log_options import (
    BUILT_IN,
    COMMON,
    DRIVERS,
    check_log_options,
    reads_from_cache,
    with_daemon_defaults,
)
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import LogConfig

DESIGN = Path(__file__).parents[3] / "docs/design/logging.md"
GELF = {"gelf-address": "udp://127.0.0.1:12201"}
GELF_TCP = {"gelf-address": "tcp://127.0.0.1:12201"}


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("json-file", {}),
        ("json-file", {"max-size": "10m", "max-file": "3", "compress": "true", "mode": "non-blocking"}),
        ("json-file", {"max-size": "-1", "max-buffer-size": "4m", "mode": "non-blocking"}),
        ("json-file", {"labels": "a,b", "labels-regex": "^c", "env": "A", "env-regex": "^B", "tag": "{{.Name}}"}),
        ("local", {"max-size": "1m", "max-file": "1", "compress": "false", "cache-disabled": "true"}),
        ("none", {"anything": "moby does not look"}),
        ("syslog", {"syslog-address": "tcp+tls://log", "syslog-facility": "local3", "syslog-format": "rfc5424micro"}),
        ("syslog", {"syslog-address": "unixgram:///dev/log", "syslog-facility": "23", "syslog-tls-skip-verify": "1"}),
        ("gelf", {**GELF, "gelf-compression-type": "zlib", "gelf-compression-level": "9"}),
        ("gelf", {**GELF_TCP, "gelf-tcp-max-reconnect": "0", "gelf-tcp-reconnect-delay": "2"}),
        ("fluentd", {"fluentd-address": "tls://[::1]:24224", "fluentd-retry-wait": "1.5s", "fluentd-async": "t"}),
        ("fluentd", {"fluentd-address": "unix:///run/f.sock", "fluentd-buffer-limit": "8m"}),
        ("journald", {"tag": "x", "cache-max-size": "1m", "cache-max-file": "2", "cache-compress": "true"}),
    ],
)
def test_log_options_of_docker_are_taken(driver: str, options: dict[str, str]) -> None:
    """LOG-01, LOG-02, LOG-04, LOG-05, LOG-06"""
    check_log_options(LogConfig(type=driver, config=options))


@pytest.mark.parametrize(
    ("driver", "options", "words"),
    [
        ("magic", {}, "logger: no log driver named 'magic' is registered"),
        ("splunk", {"splunk-token": "s"}, "logger: no log driver named 'splunk' is registered"),
        ("json-file", {"colour": "red"}, "unknown log opt 'colour' for json-file log driver"),
        ("local", {"colour": "red"}, "unknown log opt 'colour' for log driver local"),
        ("gelf", {**GELF, "colour": "red"}, 'unknown log opt "colour" for gelf log driver'),
        ("json-file", {"max-size": "ten"}, "invalid size: 'ten'"),
        ("json-file", {"max-size": "0"}, "max-size must be a positive number"),
        ("json-file", {"max-file": "0"}, "max-file cannot be less than 1"),
        ("json-file", {"max-file": "x"}, 'strconv.Atoi: parsing "x": invalid syntax'),
        (
            "json-file",
            {"compress": "true", "max-file": "2"},
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ),
        ("json-file", {"mode": "fast"}, "logger: logging mode not supported: fast"),
        (
            "json-file",
            {"max-buffer-size": "1m"},
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        (
            "syslog",
            {"mode": "non-blocking", "max-buffer-size": "much"},
            "error parsing option max-buffer-size: invalid size: 'much'",
        ),
        ("journald", {"cache-disabled": "perhaps"}, "invalid value for option cache-disabled: perhaps"),
        ("local", {"max-file": "1"}, "compression cannot be enabled when max file count is 1"),
        ("local", {"max-file": "-1"}, "max-file must not be negative"),
        (
            "local",
            {"compress": "x"},
            'invalid boolean value for compress: strconv.ParseBool: parsing "x": invalid syntax',
        ),
        ("syslog", {"syslog-address": "corge"}, "unsupported scheme: ''"),
        ("syslog", {"syslog-facility": "24"}, "invalid syslog facility"),
        ("syslog", {"syslog-format": "rfc1"}, "Invalid syslog format"),
        ("gelf", {}, "gelf-address is a required parameter"),
        ("gelf", {"gelf-address": "http://x:1"}, "gelf: endpoint needs to be TCP or UDP"),
        ("gelf", {"gelf-address": "udp://x"}, "gelf: please provide gelf-address as proto://host:port"),
        (
            "gelf",
            {**GELF, "gelf-compression-type": "rar"},
            'unknown value "rar" for log opt "gelf-compression-type" for gelf log driver',
        ),
        ("gelf", {**GELF_TCP, "gelf-compression-type": "gzip"}, "compression is only supported on UDP"),
        ("gelf", {**GELF, "gelf-tcp-max-reconnect": "1"}, '"gelf-tcp-max-reconnect" is only valid for TCP'),
        ("fluentd", {"fluentd-address": "udp://x"}, "invalid fluentd-address (udp://x): unsupported scheme: 'udp'"),
        ("fluentd", {"fluentd-address": "x/y"}, "invalid fluentd-address (x/y): should not contain a path element"),
        ("fluentd", {"fluentd-retry-wait": "5"}, 'time: missing unit in duration "5"'),
        (
            "fluentd",
            {"fluentd-async-reconnect-interval": "11s"},
            'invalid value for fluentd-async-reconnect-interval: value ("11s") must be between 100ms and 10s',
        ),
        ("fluentd", {"fluentd-max-retries": "4294967295"}, "invalid fluentd-max-retries: value out of range"),
    ],
)
def test_log_options_are_refused_in_dockers_words(driver: str, options: dict[str, str], words: str) -> None:
    """LOG-03"""
    with pytest.raises(Rejected) as caught:
        check_log_options(LogConfig(type=driver, config=options))
    assert (caught.value.reason, caught.value.message) == (Reason.INVALID, words)


def test_a_bad_pattern_is_refused() -> None:
    """LOG-01"""
    with pytest.raises(Rejected, match="error parsing regexp"):
        check_log_options(LogConfig(type="json-file", config={"env-regex": "("}))


DEFAULT = LogConfig(type="syslog", config={"tag": "d", "cache-max-size": "1m"})


@pytest.mark.parametrize(
    ("own", "whole"),
    [
        (LogConfig(), DEFAULT),
        (LogConfig(config={"tag": "own"}), LogConfig(type="syslog", config={"tag": "own", "cache-max-size": "1m"})),
        (LogConfig(config={"env": "A"}), LogConfig(type="syslog", config={"env": "A", **(DEFAULT.config or {})})),
        (LogConfig(type="gelf", config=GELF), LogConfig(type="gelf", config={"cache-max-size": "1m", **GELF})),
    ],
)
def test_the_daemons_options_belong_to_its_driver_and_those_of_the_cache_to_all(
    own: LogConfig, whole: LogConfig
) -> None:
    """LOG-03, LOG-06"""
    assert with_daemon_defaults(own, DEFAULT) == whole


def test_a_cache_is_kept_for_drivers_that_cannot_be_read_unless_it_is_switched_off() -> None:
    """LOG-06"""
    assert [name for name in sorted(DRIVERS) if reads_from_cache(LogConfig(type=name))] == [
        "fluentd",
        "gelf",
        "journald",
        "syslog",
    ]
    assert not reads_from_cache(LogConfig(type="syslog", config={"cache-disabled": "true"}))


def test_the_design_page_names_every_driver_and_option() -> None:
    """A driver or an option that is added without its row makes the page stale."""
    rows = {}
    for line in DESIGN.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) >= 2:
            rows[cells[0].strip("`")] = {word.strip("` ") for word in cells[1].split(",") if word.strip()}
    for name, driver in DRIVERS.items():
        assert rows[name] == {option.removeprefix(f"{name}-") for option in driver.options}, name
    assert rows["every driver"] == COMMON | BUILT_IN
