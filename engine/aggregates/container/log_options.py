"""Which options each log driver takes (LOG-01..06), in moby's words: the table of log drivers.

A driver is one row here (its options and their check), one file in `drivers/linux/logs` (what the options mean) and
one in `drivers/linux/runtime/supervisor/logs` (how it writes). Source: moby daemon/logger/*/: ValidateLogOpt and what
the constructors refuse; the latter is refused at create here, before anything can fail at a start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values import go_values as go
from engine.aggregates.values.config import LogConfig
from engine.aggregates.values.log_servers import SYSLOG_FORMATS, facility, fluentd_server, gelf_server, syslog_server
from engine.aggregates.values.patterns import compiled

Options = Mapping[str, str]

COMMON = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
BUILT_IN = frozenset("mode max-buffer-size cache-disabled cache-max-size cache-max-file cache-compress".split())
"""Options of every driver: they are about the engine's side of it."""
MODES = frozenset({"", "blocking", "non-blocking"})


class LogDriver(msgspec.Struct, frozen=True, kw_only=True):
    """options: beside COMMON and BUILT_IN. check: raises ValueError. unknown: moby's words for another option."""

    options: frozenset[str]
    check: Callable[[Options], None]
    unknown: str


def check_log_options(log: LogConfig) -> None:
    """Raises Rejected(INVALID) for drivers, options and values that are not known."""
    if log.type == "none":
        return  # moby looks at none of its options either
    options = log.config or {}
    try:
        _check_built_in(options)
        driver = DRIVERS.get(log.type)
        if driver is None:
            raise ValueError(f"logger: no log driver named '{log.type}' is registered")  # noqa: TRY301 - one translation
        for name in options:
            if name not in driver.options | COMMON | BUILT_IN:
                raise ValueError(driver.unknown.format(name=name))  # noqa: TRY301
        for name in ("labels-regex", "env-regex"):
            if options.get(name):
                compiled(options[name])
        driver.check(options)
    except ValueError as error:
        raise Rejected(Reason.INVALID, str(error)) from error


def reads_from_cache(log: LogConfig) -> bool:
    """Whether a copy of the output is kept for `docker logs`: of drivers that cannot be read (LOG-06)."""
    if log.type in ("none", "json-file", "local"):
        return False
    return not go.boolean((log.config or {}).get("cache-disabled") or "false")


def with_daemon_defaults(log: LogConfig, default: LogConfig) -> LogConfig:
    """The daemon's driver where none is asked for; its options under the same driver, its cache options always."""
    kind = log.type or default.type
    own, inherited = log.config or {}, default.config or {}
    if kind != default.type:
        inherited = {name: value for name, value in inherited.items() if name.startswith("cache-")}
    return LogConfig(type=kind, config={**inherited, **own})


def _check_built_in(options: Options) -> None:
    if options.get("mode", "") not in MODES:
        raise ValueError(f"logger: logging mode not supported: {options['mode']}")
    if "max-buffer-size" in options:
        if options.get("mode") != "non-blocking":
            raise ValueError("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        _named("error parsing option max-buffer-size", go.binary_bytes, options["max-buffer-size"])
    if options.get("cache-disabled"):
        try:
            go.boolean(options["cache-disabled"])
        except ValueError as error:
            raise ValueError(f"invalid value for option cache-disabled: {options['cache-disabled']}") from error
    _check_local({name.removeprefix("cache-"): value for name, value in options.items() if name.startswith("cache-")})


def _check_json_file(options: Options) -> None:
    limited = options.get("max-size", "-1") != "-1"
    if limited and go.decimal_bytes(options["max-size"]) <= 0:
        raise ValueError("max-size must be a positive number")
    files = go.integer(options.get("max-file", "1"))
    if files < 1:
        raise ValueError("max-file cannot be less than 1")
    if go.boolean(options.get("compress", "false")) and (files == 1 or not limited):
        raise ValueError("compress cannot be true when max-file is less than 2 or max-size is not set")


def _check_local(options: Options) -> None:
    if "max-size" in options:
        _named(f"invalid value for max-size: {options['max-size']}", go.decimal_bytes, options["max-size"])
    files = 5
    if "max-file" in options:
        files = _named(f"invalid value for max-file: {options['max-file']}", go.integer, options["max-file"])
    if files < 0:
        raise ValueError("max-file must not be negative")
    compress = _named("invalid boolean value for compress", go.boolean, options.get("compress", "true"))
    if compress and files <= 1:
        raise ValueError("compression cannot be enabled when max file count is 1")


def _check_syslog(options: Options) -> None:
    syslog_server(options.get("syslog-address", ""))
    facility(options.get("syslog-facility", ""))
    if options.get("syslog-format", "") not in SYSLOG_FORMATS:
        raise ValueError("Invalid syslog format")


def _check_gelf(options: Options) -> None:
    network = gelf_server(options.get("gelf-address", "")).network
    for name, value in options.items():
        if name in ("gelf-compression-level", "gelf-compression-type"):
            if network != "udp":
                raise ValueError("compression is only supported on UDP")
            level = name.endswith("level")
            if not (re.fullmatch(r"-1|\d", value) if level else value in ("gzip", "zlib", "none")):
                raise ValueError(f'unknown value {go.quoted(value)} for log opt "{name}" for gelf log driver')
        elif name in ("gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"):
            if network != "tcp":
                raise ValueError(f'"{name}" is only valid for TCP')
            if not value.isdecimal():
                raise ValueError(f'"{name}" must be a positive integer')


def _check_fluentd(options: Options) -> None:
    fluentd_server(options.get("fluentd-address", ""))
    if options.get("fluentd-buffer-limit"):
        go.binary_bytes(options["fluentd-buffer-limit"])
    if options.get("fluentd-retry-wait"):
        go.duration_ns(options["fluentd-retry-wait"])
    retries = options.get("fluentd-max-retries")
    if retries:
        if not retries.isdecimal():
            raise ValueError(f"strconv.ParseUint: parsing {go.quoted(retries)}: invalid syntax")
        if int(retries) >= 1 << 31:
            raise ValueError("invalid fluentd-max-retries: value out of range")
    for name in ("fluentd-async", "fluentd-sub-second-precision", "fluentd-request-ack"):
        if options.get(name):
            go.boolean(options[name])
    for name in ("fluentd-write-timeout", "fluentd-read-timeout"):
        if options.get(name):
            words = f"invalid value for {name}: value must be a duration"
            if _named(words, go.duration_ns, options[name]) < 0:
                raise ValueError(f"{words} that is non-negative")
    name = "fluentd-async-reconnect-interval"
    if options.get(name):
        interval = _named(f"invalid value for {name}", go.duration_ns, options[name])
        if interval and not 100_000_000 <= interval <= 10_000_000_000:
            raise ValueError(
                f"invalid value for {name}: value ({go.quoted(options[name])}) must be between 100ms and 10s"
            )


def _named(words: str, read: Callable[[str], int], text: str) -> int:
    """The value, or its complaint behind the words that say where."""
    try:
        return read(text)
    except ValueError as error:
        raise ValueError(f"{words}: {error}") from error


_ROTATION = frozenset({"max-file", "max-size", "compress"})
_SYSLOG = "address facility tls-ca-cert tls-cert tls-key tls-skip-verify format"
_GELF = "address compression-level compression-type tcp-max-reconnect tcp-reconnect-delay"
_FLUENTD = (
    "address async async-reconnect-interval buffer-limit max-retries request-ack retry-wait sub-second-precision"
    " write-timeout read-timeout"
)


def _prefixed(prefix: str, names: str) -> frozenset[str]:
    return frozenset(f"{prefix}-{name}" for name in names.split())


def _nothing(options: Options) -> None:
    """journald has no options of its own."""


DRIVERS: Mapping[str, LogDriver] = {
    "fluentd": LogDriver(
        options=_prefixed("fluentd", _FLUENTD),
        check=_check_fluentd,
        unknown="unknown log opt '{name}' for fluentd log driver",
    ),
    "gelf": LogDriver(
        options=_prefixed("gelf", _GELF), check=_check_gelf, unknown='unknown log opt "{name}" for gelf log driver'
    ),
    "journald": LogDriver(
        options=frozenset(), check=_nothing, unknown="unknown log opt '{name}' for journald log driver"
    ),
    "json-file": LogDriver(
        options=_ROTATION, check=_check_json_file, unknown="unknown log opt '{name}' for json-file log driver"
    ),
    "local": LogDriver(
        options=_ROTATION, check=_check_local, unknown="unknown log opt '{name}' for log driver local"
    ),
    "syslog": LogDriver(
        options=_prefixed("syslog", _SYSLOG),
        check=_check_syslog,
        unknown="unknown log opt '{name}' for syslog log driver",
    ),
}
"""Every log driver there is, beside `none`."""
