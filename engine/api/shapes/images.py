"""Images in Docker's shape: list entries, inspect, history.

Source: Engine API `ImageSummary`, `ImageInspect`, `HistoryResponseItem`; moby daemon/images (images.go,
image_inspect.go, image_history.go), router/image/image_routes.go for what a version adds or takes away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from engine.aggregates.image import ImageState
from engine.aggregates.values.config import ContainerConfig
from engine.aggregates.values.manifest import ImageConfig, layer_history
from engine.aggregates.values.reference import parse
from engine.api.shapes.times import ZERO_TIME, rfc3339_nano
from engine.api.versions import ApiVersion
from engine.config import DaemonConfig

NS = 1_000_000_000
ONE_SIZE_SINCE = (1, 44)
"""Before, VirtualSize said the same as Size, and the CLI of that age computes with it."""


class ListFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an entry tells beside the image. containers: how many use it, -1 not told; shared: how often each layer is
    used among all images, None where the sizes were not asked for."""

    containers: int = -1
    shared: Counter[str] | None = None


def familiar(references: Iterable[str]) -> list[str]:
    return sorted(parse(reference).familiar for reference in references)


def summary(state: ImageState, facts: ListFacts, version: ApiVersion) -> dict[str, Any]:
    """An entry of `GET /images/json`."""
    tags, digests = familiar(state.references), familiar(state.repository_digests)
    if version < (1, 43) and not tags and not digests:
        tags, digests = ["<none>:<none>"], ["<none>@<none>"]
    shape: dict[str, Any] = {
        "Containers": facts.containers if version >= (1, 51) else -1,
        "Created": state.created_at // NS,
        "Id": state.image_id,
        "Labels": dict(state.labels) or None,
        "ParentId": state.parent,
        "RepoDigests": digests,
        "RepoTags": tags,
        "SharedSize": shared_size(state, facts.shared),
        "Size": state.size,
    }
    if version < ONE_SIZE_SINCE:
        shape["VirtualSize"] = state.size
    return shape


def shared_size(state: ImageState, shared: Counter[str] | None) -> int:
    """Bytes in layers that other images have, too; -1 when it was not asked for."""
    if shared is None:
        return -1
    return sum(layer.size for layer in state.layers if shared[layer.chain_id] > 1)


def layer_uses(states: Iterable[ImageState]) -> Counter[str]:
    return Counter(chain_id for state in states for chain_id in set(state.chain))


def inspect(state: ImageState, config: ImageConfig, daemon: DaemonConfig, version: ApiVersion) -> dict[str, Any]:
    """`GET /images/{name}/json` (IMG-09, API-31)."""
    comment = config.history[-1].comment if config.history else ""
    shape: dict[str, Any] = {
        "Id": state.image_id,
        "RepoTags": familiar(state.references),
        "RepoDigests": familiar(state.repository_digests),
        "Created": config.created or (ZERO_TIME if version < (1, 44) else ""),
        "Config": container_config(config.config, version),
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": state.size,
        "GraphDriver": graph_driver(state, daemon),
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
        "Metadata": {"LastTagTime": rfc3339_nano(state.tagged_at)},
    }
    if config.variant:
        shape["Variant"] = config.variant
    if config.os_version:
        shape["OsVersion"] = config.os_version
    said = {"Parent": state.parent, "Comment": comment, "DockerVersion": config.docker_version, "Author": config.author}
    shape |= said if version < (1, 52) else {key: value for key, value in said.items() if value}
    if not shape["Created"]:
        del shape["Created"]
    if version < ONE_SIZE_SINCE:
        shape["VirtualSize"] = state.size
    if version < (1, 45):
        shape["Container"] = ""
        shape["ContainerConfig"] = container_config(ContainerConfig(), (1, 44))
    return shape


def graph_driver(state: ImageState, daemon: DaemonConfig) -> dict[str, Any]:
    """Where the layers lie, as overlay2 tells it: the topmost as upper, the others as lowers. vfs tells nothing."""
    if daemon.storage_driver == "vfs":
        return {"Name": "vfs", "Data": None}
    paths = [f"{daemon.data_root}/layers/{chain_id.partition(':')[2]}/diff" for chain_id in reversed(state.chain)]
    data = {"UpperDir": paths[0]} if paths else {}
    if len(paths) > 1:
        data["LowerDir"] = ":".join(paths[1:])
    return {"Name": "overlay2", "Data": data or None}


def container_config(config: ContainerConfig, version: ApiVersion) -> dict[str, Any]:
    """The part a container inherits. Until 1.49 with all fields of a container's, until 1.51 with empty ones."""
    shape: dict[str, Any] = {}
    if version < (1, 52):
        shape |= {"User": "", "Env": None, "Cmd": None, "Volumes": None, "WorkingDir": "", "Entrypoint": None}
        shape |= {"OnBuild": None, "Labels": None}
    if version < (1, 50):
        flags = ("AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce")
        shape |= {"Hostname": "", "Domainname": "", "Image": "", **dict.fromkeys(flags, False)}
    own: dict[str, Any] = msgspec.to_builtins(config)
    return shape | own


def history(state: ImageState, config: ImageConfig) -> list[dict[str, Any]]:
    """`GET /images/{name}/history`, newest step first; only the newest has an id and tags."""
    sizes = {layer.diff_id: layer.size for layer in state.layers}
    steps: list[dict[str, Any]] = [
        {
            "Comment": step.comment,
            "Created": ImageConfig(architecture="", os="", created=step.created).created_at // NS,
            "CreatedBy": step.created_by,
            "Id": "<missing>",
            "Size": sizes.get(diff_id, 0) if diff_id is not None else 0,
            "Tags": None,
        }
        for step, diff_id in reversed(layer_history(config))
    ]
    if steps:
        steps[0] |= {"Id": state.image_id, "Tags": familiar(state.references) or None}
    return steps
