"""How a registry may be reached: endpoints in order, TLS, plain HTTP.

Owns the daemon's `registry-mirrors` and `insecure-registries` and the files of `certs.d`. Source: moby
daemon/pkg/registry (config.go, endpoint lookup; ReadCertsDirectory).
"""

from __future__ import annotations

import ipaddress
import os
import ssl

import msgspec

from engine.aggregates.values.reference import DEFAULT_DOMAIN
from engine.errors import Fault, PortError

HUB_HOST = "registry-1.docker.io"
HUB_LOGIN_SERVERS = frozenset({"", DEFAULT_DOMAIN, "index.docker.io", HUB_HOST})
_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
_IPV6_LOOPBACK = ipaddress.ip_network("::1/128")


class RegistryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """mirrors: URLs, for docker.io only, tried first. insecure: `host[:port]` or CIDR; 127.0.0.0/8 always is.
    certs_dir: holds `<host[:port]>/{*.crt,*.cert,*.key}`."""

    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    certs_dir: str = "/etc/docker/certs.d"
    user_agent: str = "docker/28.0.0 ishmael"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One place to ask. base: `https://registry-1.docker.io`, no slash at the end."""

    base: str
    host: str
    verify: bool = True
    mirror: bool = False


def endpoints(policy: RegistryPolicy, domain: str) -> tuple[Endpoint, ...]:
    """Where to ask for a repository of `domain`, in order: mirrors, https, and for an insecure registry plain http."""
    found = []
    if domain == DEFAULT_DOMAIN:
        for mirror in policy.mirrors:
            scheme, _, rest = mirror.rstrip("/").rpartition("://")
            host = rest.partition("/")[0]
            found.append(
                Endpoint(
                    base=f"{scheme or 'https'}://{rest}", host=host, verify=not is_insecure(policy, host), mirror=True
                )
            )
    host = HUB_HOST if domain == DEFAULT_DOMAIN else domain
    insecure = is_insecure(policy, host)
    found.append(Endpoint(base=f"https://{host}", host=host, verify=not insecure))
    if insecure:
        found.append(Endpoint(base=f"http://{host}", host=host, verify=False))
    return tuple(found)


def is_insecure(policy: RegistryPolicy, host: str) -> bool:
    """Whether bad certificates and plain HTTP are accepted. Names are not looked up here: moby resolves them to match
    CIDRs, which makes the answer depend on the name server; only `localhost` is known."""
    name = _host_name(host)
    if host in policy.insecure or name in policy.insecure or name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    if address in _LOOPBACK or address in _IPV6_LOOPBACK:
        return True
    return any(address in network for network in _networks(policy.insecure))


def trust_state(policy: RegistryPolicy, host: str) -> tuple[tuple[str, int], ...]:
    """What changes when somebody changes a host's files of trust: they are read anew then, as moby does each time."""
    directory = os.path.join(policy.certs_dir, host)
    try:
        with os.scandir(directory) as entries:
            return tuple(sorted((entry.name, entry.stat().st_mtime_ns) for entry in entries))
    except OSError:
        return ()


def tls_context(policy: RegistryPolicy, host: str, *, verify: bool) -> ssl.SSLContext:
    """Trust and client certificates for one host. Raises PortError for files that do not fit together."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    directory = os.path.join(policy.certs_dir, host)
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return context
    try:
        for name in names:
            path = os.path.join(directory, name)
            if name.endswith(".crt"):
                context.load_verify_locations(cafile=path)
            elif name.endswith(".cert"):
                _load_client_certificate(context, path, names)
            elif name.endswith(".key") and name[:-4] + ".cert" not in names:
                raise _bad_certificates(f"missing client certificate {name[:-4]}.cert for key {name}")
    except (OSError, ssl.SSLError) as error:
        raise _bad_certificates(f"{directory}: {error}") from error
    return context


def _load_client_certificate(context: ssl.SSLContext, path: str, names: list[str]) -> None:
    key = os.path.basename(path)[:-5] + ".key"
    if key not in names:
        words = f"missing key {key} for client certificate {os.path.basename(path)}"
        raise _bad_certificates(words + ". CA certificates must use the extension .crt")
    context.load_cert_chain(path, os.path.join(os.path.dirname(path), key))


def _bad_certificates(words: str) -> PortError:
    return PortError("registry", words, fault=Fault.INVALID)


def _networks(entries: tuple[str, ...]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(entry, strict=False) for entry in entries if "/" in entry]


def _host_name(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
