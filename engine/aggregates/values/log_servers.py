"""Addresses of log servers as the options of syslog, gelf and fluentd write them.

Source: parseAddress in moby daemon/logger/{syslog,gelf,fluentd}. Raises ValueError with moby's words.
"""

from __future__ import annotations

import urllib.parse

import msgspec

from engine.aggregates.values.go_values import quoted

FACILITIES = {
    name: number
    for number, name in enumerate(
        "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp".split()
    )
} | {f"local{number}": 16 + number for number in range(8)}
SYSLOG_FORMATS = frozenset({"", "rfc3164", "rfc5424", "rfc5424micro"})
SYSLOG_PORT = 514
FLUENTD_PORT = 24224


class LogServer(msgspec.Struct, frozen=True, kw_only=True):
    """network: udp, tcp, tls, unix, unixgram. path: of the unix ones."""

    network: str
    host: str = ""
    port: int = 0
    path: str = ""


def syslog_server(address: str) -> LogServer | None:
    """None: the host's own, at one of its usual sockets."""
    if not address:
        return None
    url = urllib.parse.urlsplit(address)
    if url.scheme in ("unix", "unixgram"):
        return LogServer(network=url.scheme, path=url.path)
    if url.scheme not in ("udp", "tcp", "tcp+tls"):
        raise ValueError(f"unsupported scheme: '{url.scheme}'")
    host, port = _host_and_port(url, SYSLOG_PORT)
    return LogServer(network="tls" if url.scheme == "tcp+tls" else url.scheme, host=host, port=port)


def gelf_server(address: str) -> LogServer:
    if not address:
        raise ValueError("gelf-address is a required parameter")
    url = urllib.parse.urlsplit(address)
    if url.scheme not in ("udp", "tcp"):
        raise ValueError("gelf: endpoint needs to be TCP or UDP")
    host, port = _host_and_port(url, 0)
    if not port:
        raise ValueError("gelf: please provide gelf-address as proto://host:port")
    return LogServer(network=url.scheme, host=host, port=port)


def fluentd_server(address: str) -> LogServer:
    if not address:
        return LogServer(network="tcp", host="127.0.0.1", port=FLUENTD_PORT)
    try:
        return _fluentd_server(address if "://" in address else f"tcp://{address}")
    except ValueError as error:
        raise ValueError(f"invalid fluentd-address ({address}): {error}") from error


def _fluentd_server(address: str) -> LogServer:
    url = urllib.parse.urlsplit(address)
    if url.scheme == "unix":
        if not url.path.lstrip("/"):
            raise ValueError("path is empty")
        return LogServer(network="unix", path=url.path)
    if url.scheme not in ("tcp", "tls"):
        raise ValueError(f"unsupported scheme: '{url.scheme}'")
    if url.path:
        raise ValueError("should not contain a path element")
    host, port = _host_and_port(url, FLUENTD_PORT)
    return LogServer(network=url.scheme, host=host or "127.0.0.1", port=port)


def _host_and_port(url: urllib.parse.SplitResult, port: int) -> tuple[str, int]:
    _, separator, written = url.netloc.rpartition(":")
    if separator and "]" not in written and not written.isdecimal():
        raise ValueError(f"parse {quoted(url.geturl())}: invalid port {quoted(':' + written)} after host")
    return url.hostname or "", url.port or port


def facility(text: str) -> int:
    """The number of a syslog facility; daemon by default."""
    if not text:
        return FACILITIES["daemon"]
    if text in FACILITIES:
        return FACILITIES[text]
    if text.isdecimal() and int(text) <= 23:
        return int(text)
    raise ValueError("invalid syslog facility")
