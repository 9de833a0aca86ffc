"""Layers by content: the arithmetic between DiffIDs and ChainIDs.

Owns one rule of the OCI image spec (config.md, "Layer ChainID"): ChainID(L0) = DiffID(L0), ChainID(L0|...|Ln) =
SHA256(ChainID(L0|...|Ln-1) + " " + DiffID(Ln)).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from engine.aggregates.values.ids import ChainID, DiffID

LAYERS_MAX = 125
"""An image may have this many layers (moby layer_store.go, maxLayerDepth)."""


def chain_id(parent: ChainID | None, diff_id: DiffID) -> ChainID:
    """The ChainID of one layer on top of `parent`, or of a lowest layer."""
    if parent is None:
        return ChainID(diff_id)
    return ChainID("sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest())


def chain_ids(diff_ids: Iterable[DiffID]) -> tuple[ChainID, ...]:
    """The ChainID of every layer, lowest first."""
    chain: list[ChainID] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else None, diff_id))
    return tuple(chain)
