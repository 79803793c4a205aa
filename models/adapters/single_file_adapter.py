"""What a single file that is an adapter tells of itself. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.diffusion_interface import AdapterKind


@dataclass(frozen=True, slots=True)
class SingleFileAdapter:
    kind: AdapterKind
    cls: str  # of the module that its tensors are for
    config: Mapping[str, object] = field(default_factory=dict)  # arguments of that class
