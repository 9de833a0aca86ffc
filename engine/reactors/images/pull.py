"""Pulling: from a reference to an image with that name.

Owns the walk: intent, manifest, platform, configuration, layers, one transaction. What is fetched is held until it is
an image (holds.py), so that no removal beside it discards a layer it has found. Source: moby
daemon/internal/distribution/pull_v2.go.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec
import trio
from msgspec.structs import replace

from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.image import AddImage, ImageState, ImageStatus
from engine.aggregates.transfer import BeginTransfer, ReportTransferDone, ReportTransferFailed
from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import Digest, ImageID
from engine.aggregates.values.layers import LAYERS_MAX
from engine.aggregates.values.manifest import ImageConfig, Manifest, choose, parse_image_config, parse_manifest
from engine.aggregates.values.platform import Platform, fallbacks
from engine.aggregates.values.reference import Reference
from engine.api import moments
from engine.drivers.ports.registry import Credentials, Registry
from engine.drivers.ports.storage import BlobStore, LayerStore
from engine.errors import PortError
from engine.reactors.base import Hands
from engine.reactors.images import messages
from engine.reactors.images.additions import Additions
from engine.reactors.images.downloads import Downloads
from engine.reactors.images.holds import Hold, Holds
from engine.reactors.images.layers import LayerFetch, wanted_layers

Emit = Callable[[object], Awaitable[None]]

NAME = "images"
