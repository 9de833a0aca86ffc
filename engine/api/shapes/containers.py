"""Containers in Docker's words: the rows of `ps` and the document of `inspect`.

Pure rendering of projected state. Secrets (the environment) are given in by the route that may open them. Version
gates: API-31..36.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.log_options import reads_from_cache
from engine.aggregates.container.state import ContainerState
from engine.aggregates.network import NetworkState
from engine.aggregates.values.endpoints import Endpoint, NetworkAttachment, PublishedPort
from engine.aggregates.values.health import HealthResult, HealthStatus
from engine.aggregates.values.ids import short
from engine.aggregates.values.log_files import LogFile, log_file
from engine.aggregates.values.mounts import MountPoint
from engine.aggregates.values.security import apparmor_profile, masked_paths, readonly_paths, security_option
from engine.api.shapes.full import full
from engine.api.shapes.times import rfc3339_nano, status_words

NS = 1_000_000_000

_WORDS = {
    Status.CREATED: "created",
    Status.STARTING: "created",
    Status.STARTING_AGAIN: "exited",
    Status.RUNNING: "running",
    Status.PAUSING: "running",
    Status.PAUSED: "paused",
    Status.UNPAUSING: "paused",
    Status.RESTARTING: "restarting",
    Status.EXITED: "exited",
    Status.REMOVING: "removing",
}


def status_of(state: ContainerState) -> str:
    """Docker's word: created, running, paused, restarting, removing, exited."""
    if state.status is Status.REMOVING and state.alive:
        return "running"  # Running wins over removing (moby daemon/container/state.go).
    if state.status is Status.STARTING_AGAIN and state.restart_count:
        return "restarting"  # a start by policy belongs to the restart, until it runs: nobody may take it for the end
    return _WORDS.get(state.status, "dead")


def counts_as_running(state: ContainerState) -> bool:
    """As `State.Running`: also while it is paused, or waits for its restart."""
    return status_of(state) in ("running", "paused", "restarting")


def status_text(state: ContainerState, now_ns: int) -> str:
    """The STATUS column."""
    return status_words(
        status_of(state),
        now_ns=now_ns,
        started_at_ns=state.started_at,
        finished_at_ns=state.finished_at,
        exit_code=state.exit_code,
        health="" if state.health.status is HealthStatus.NONE else state.health.status.value,
    )


def command_of(state: ContainerState) -> tuple[str, list[str]]:
    """(Path, Args): the program and its arguments."""
    words = [*(state.config.entrypoint or ()), *(state.config.cmd or ())]
    return (words[0], words[1:]) if words else ("", [])


def summary(
    state: ContainerState,
    *,
    now_ns: int,
    image_name: str,
    networks: Any,
    api_version: tuple[int, int],
    link_names: Sequence[str] = (),
) -> dict[str, Any]:
    """One element of `GET /containers/json`. image_name: what the IMAGE column says; link_names: `web/db`."""
    path, arguments = command_of(state)
    row: dict[str, Any] = {
        "Id": state.container_id,
        "Names": [f"/{name}" for name in (state.name, *link_names)],
        "Image": image_name,
        "ImageID": state.image_id,
        "Command": " ".join([path, *(_quoted(word) for word in arguments)]),
        "Created": state.created_at // NS,
        "Ports": ports_rows(state),
        "Labels": dict(state.config.labels or {}),
        "State": status_of(state),
        "Status": status_text(state, now_ns),
        "HostConfig": {"NetworkMode": state.host.network_mode},
        "NetworkSettings": {"Networks": endpoint_settings(state, networks, api_version)},
        "Mounts": [mount_row(point) for point in state.mounts if point.type != "tmpfs"],
    }
    if state.host.annotations and api_version >= (1, 46):
        row["HostConfig"]["Annotations"] = dict(state.host.annotations)
    return row


def _quoted(word: str) -> str:
    """Arguments with spaces in quotes, as moby prints the COMMAND column."""
    return f"'{word}'" if " " in word else word


def ports_rows(state: ContainerState) -> list[dict[str, Any]]:
    """Published ports, then the exposed ones that nobody published, while the container runs."""
    if not state.alive:
        return []
    rows: list[dict[str, Any]] = [
        {
            "IP": port.host_ip,
            "PrivatePort": port.container_port,
            **({"PublicPort": port.host_port} if port.host_port else {}),
            "Type": port.protocol,
        }
        for port in state.ports
    ]
    published = {(port.container_port, port.protocol) for port in state.ports}
    for spec in state.config.exposed_ports or {}:
        number, _, protocol = spec.partition("/")
        if number.isdecimal() and (int(number), protocol or "tcp") not in published:
            rows.append({"PrivatePort": int(number), "Type": protocol or "tcp"})
    return rows


def port_map(state: ContainerState) -> dict[str, list[dict[str, str]] | None]:
    """`NetworkSettings.Ports`: exposed ports map to null, published ones to their bindings."""
    if not state.alive:
        return {}
    ports: dict[str, list[dict[str, str]] | None] = {}
    for spec in state.config.exposed_ports or {}:
        ports[spec if "/" in spec else f"{spec}/tcp"] = None
    for port in state.ports:
        key = f"{port.container_port}/{port.protocol}"
        ports[key] = [*(ports.get(key) or ()), _binding(port)]
    return ports


def _binding(port: PublishedPort) -> dict[str, str]:
    return {"HostIp": port.host_ip, "HostPort": str(port.host_port or "")}


def mount_row(point: MountPoint) -> dict[str, Any]:
    """One element of `Mounts`."""
    row: dict[str, Any] = {"Type": point.type}
    if point.name:
        row["Name"] = point.name
    row |= {"Source": point.source, "Destination": point.destination}
    if point.driver:
        row["Driver"] = point.driver
    return row | {"Mode": point.mode, "RW": point.rw, "Propagation": point.propagation}


def endpoint_settings(state: ContainerState, networks: Any, api_version: tuple[int, int]) -> dict[str, Any]:
    """`NetworkSettings.Networks`: by network name, wishes and facts together."""
    joined = {endpoint.network_id: endpoint for endpoint in state.endpoints}
    settings: dict[str, Any] = {}
    for attachment in state.networks:
        network: NetworkState | None = networks.lookup(attachment.network_id or attachment.name)
        endpoint = joined.get(network.network_id) if network is not None else None
        name = network.settings.name if network is not None else attachment.name
        network_id = network.network_id if network is not None and endpoint is not None else attachment.network_id
        settings[name] = _endpoint(state, attachment, endpoint, network_id, api_version)
    return settings


def _endpoint(
    state: ContainerState,
    attachment: NetworkAttachment,
    endpoint: Endpoint | None,
    network_id: str,
    api_version: tuple[int, int],
) -> dict[str, Any]:
    config = attachment.config
    aliases = list(config.aliases) if config.aliases is not None else None
    if api_version < (1, 45) and aliases is not None:
        aliases.append(short(state.container_id))
    row: dict[str, Any] = {
        "IPAMConfig": full(config.ipam_config) if config.ipam_config is not None else None,
        "Links": list(config.links) if config.links is not None else None,
        "Aliases": aliases,
        "MacAddress": endpoint.mac_address if endpoint is not None else config.mac_address,
        "DriverOpts": dict(config.driver_opts) if config.driver_opts is not None else None,
        "GwPriority": config.gw_priority,
        "NetworkID": network_id,
        "EndpointID": endpoint.endpoint_id if endpoint is not None else "",
        "Gateway": endpoint.ipv4_gateway if endpoint is not None else "",
        "IPAddress": endpoint.ipv4_address if endpoint is not None else "",
        "IPPrefixLen": endpoint.ipv4_prefix_length if endpoint is not None else 0,
        "IPv6Gateway": endpoint.ipv6_gateway if endpoint is not None else "",
        "GlobalIPv6Address": endpoint.ipv6_address if endpoint is not None else "",
        "GlobalIPv6PrefixLen": endpoint.ipv6_prefix_length if endpoint is not None else 0,
        "DNSNames": list(endpoint.dns_names) if endpoint is not None and endpoint.dns_names else None,
    }
    if api_version < (1, 48):
        del row["GwPriority"]
    return row


def state_document(state: ContainerState, probes: Sequence[HealthResult]) -> dict[str, Any]:
    """`State` of inspect. probes: the last results of the health check."""
    status = status_of(state)
    document: dict[str, Any] = {
        "Status": status,
        "Running": counts_as_running(state),
        "Paused": status == "paused",
        "Restarting": status == "restarting",
        "OOMKilled": state.oom_killed,
        "Dead": status == "dead",
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339_nano(state.started_at),
        "FinishedAt": rfc3339_nano(state.finished_at),
    }
    if state.health.status is not HealthStatus.NONE:
        document["Health"] = {
            "Status": state.health.status.value,
            "FailingStreak": state.health.failing_streak,
            "Log": [
                {
                    "Start": rfc3339_nano(result.started_at),
                    "End": rfc3339_nano(result.finished_at),
                    "ExitCode": result.exit_code,
                    "Output": result.output,
                }
                for result in probes
            ],
        }
    return document


def inspection(
    state: ContainerState,
    *,
    env: Sequence[str],
    probes: Sequence[HealthResult],
    networks: Any,
    exec_ids: Iterable[str],
    folder: str,
    storage_driver: str,
    graph: Mapping[str, Any],
    default_runtime: str,
    apparmor: bool,
    links: Sequence[str],
    api_version: tuple[int, int],
) -> dict[str, Any]:
    """`GET /containers/{id}/json`. folder: the container's own; graph: `GraphDriver.Data`. apparmor: whether the host
    has it. links: `/db:/web/database`."""
    path, arguments = command_of(state)
    ids = list(exec_ids)
    return {
        "Id": state.container_id,
        "Created": rfc3339_nano(state.created_at),
        "Path": path,
        "Args": arguments,
        "State": state_document(state, probes),
        "Image": state.image_id,
        "ResolvConfPath": posixpath.join(folder, "resolv.conf") if state.has_been_started else "",
        "HostnamePath": posixpath.join(folder, "hostname") if state.has_been_started else "",
        "HostsPath": posixpath.join(folder, "hosts") if state.has_been_started else "",
        "LogPath": log_path(state, folder),
        "Name": f"/{state.name}",
        "RestartCount": state.restart_count,
        "Driver": storage_driver,
        "Platform": state.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": _apparmor(state, available=apparmor),
        "ExecIDs": ids or None,
        "HostConfig": _host_config(state, default_runtime, links, api_version),
        "GraphDriver": {"Data": dict(graph) or None, "Name": storage_driver},
        "Mounts": [mount_row(point) for point in state.mounts if point.type != "tmpfs" or point.from_spec],
        "Config": _config(state, env, api_version),
        "NetworkSettings": _network_settings(state, networks, api_version),
    }


def _apparmor(state: ContainerState, *, available: bool) -> str:
    """What was asked for; from the first start on what applied, which is nothing where there is no AppArmor."""
    if not state.has_been_started:
        return security_option(state.host, "apparmor")
    return apparmor_profile(state.host) if available else ""


def log_path(state: ContainerState, folder: str) -> str:
    """Of json-file only, as in Docker: what the others write is nobody's to read but `docker logs`."""
    file = readable_log(state, folder)
    return file.path if file is not None and file.format == "json-file" else ""


def readable_log(state: ContainerState, folder: str) -> LogFile | None:
    """Where `docker logs` reads; None for a driver that cannot be read and keeps no cache."""
    log = state.host.log_config
    return log_file(log.type, cached=reads_from_cache(log), folder=folder, container_id=state.container_id)


def _host_config(
    state: ContainerState, default_runtime: str, links: Sequence[str], api_version: tuple[int, int]
) -> dict[str, Any]:
    document: dict[str, Any] = full(state.host)
    document["Links"] = list(links) or None
    document["Runtime"] = state.host.runtime or default_runtime
    document["RestartPolicy"]["Name"] = document["RestartPolicy"]["Name"] or "no"
    document["LogConfig"]["Config"] = document["LogConfig"]["Config"] or {}
    document["PortBindings"] = document["PortBindings"] or {}
    for absent in ("Annotations", "Init", "Mounts", "StorageOpt", "Sysctls", "Tmpfs"):
        if document[absent] is None:
            del document[absent]
    if api_version < (1, 46):
        document.pop("Annotations", None)
    document["ConsoleSize"] = list(state.host.console_size or (0, 0))
    document["MaskedPaths"] = list(masked_paths(state.host)) or document["MaskedPaths"]
    document["ReadonlyPaths"] = list(readonly_paths(state.host)) or document["ReadonlyPaths"]
    return document


def _config(state: ContainerState, env: Sequence[str], api_version: tuple[int, int]) -> dict[str, Any]:
    document: dict[str, Any] = full(state.config)
    document["Env"] = list(env)
    document["Labels"] = document["Labels"] or {}
    for absent in (
        "ExposedPorts",
        "Healthcheck",
        "ArgsEscaped",
        "NetworkDisabled",
        "StopSignal",
        "StopTimeout",
        "Shell",
    ):
        if not document[absent] and document[absent] != 0:
            del document[absent]
    mac_address = document.pop("MacAddress")
    if mac_address and api_version < (1, 52):
        document["MacAddress"] = mac_address
    health = document.get("Healthcheck")
    if health is not None:
        document["Healthcheck"] = {name: value for name, value in health.items() if value}
    return document


def _network_settings(state: ContainerState, networks: Any, api_version: tuple[int, int]) -> dict[str, Any]:
    per_network = endpoint_settings(state, networks, api_version)
    sandbox_key = f"/proc/{state.pid}/ns/net" if state.pid else ""
    document: dict[str, Any] = {
        "SandboxID": state.container_id if state.pid else "",
        "SandboxKey": sandbox_key,
        "Ports": port_map(state),
        "Networks": per_network,
    }
    if api_version < (1, 52):
        first = per_network.get("bridge", {})
        document |= {
            "Bridge": "",
            "HairpinMode": False,
            "LinkLocalIPv6Address": "",
            "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": None,
            "SecondaryIPv6Addresses": None,
        }
        for name, empty in (
            ("EndpointID", ""),
            ("Gateway", ""),
            ("GlobalIPv6Address", ""),
            ("GlobalIPv6PrefixLen", 0),
            ("IPAddress", ""),
            ("IPPrefixLen", 0),
            ("IPv6Gateway", ""),
            ("MacAddress", ""),
        ):
            document[name] = first.get(name, empty)
    return document
