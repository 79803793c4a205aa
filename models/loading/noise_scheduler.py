"""Gives a pipeline the noise scheduler that its checkpoint asks for. Device thread only."""

from __future__ import annotations

from typing import Any

from models.spec import ModelSpec


def apply_scheduler_settings(pipeline: Any, spec: ModelSpec) -> None:
    """Replaces what the file or models.toml states. The class changes when it does not know such a setting."""
    import diffusers

    if spec.scheduler_config:
        cls = getattr(diffusers, spec.schedulers[0])
        pipeline.scheduler = cls.from_config(pipeline.scheduler.config, **spec.scheduler_config)
