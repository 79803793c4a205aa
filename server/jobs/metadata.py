"""What a file says of how it was made. Pure functions."""

from __future__ import annotations

import json

from server.jobs.encoding import Provenance
from server.store.jobs import JobRow


def provenance(row: JobRow, index: int, scheduler: str) -> Provenance:
    """What goes into the file: A1111's `parameters` for other programs, and everything as JSON for ours."""
    said, seed = row.request, row.request["seed"] + index
    facts = {
        "Steps": said["steps"],
        "Sampler": scheduler,
        "CFG scale": said["guidance_scale"],
        "Seed": seed,
        "Size": f"{said['width']}x{said['height']}",
        "Model": row.model,
        "Clip skip": said["clip_skip"] + 1 if said.get("clip_skip") else None,  # A1111 counts from the last layer as 1
    }
    lines = [said["prompt"]]
    if said["negative_prompt"]:
        lines.append(f"Negative prompt: {said['negative_prompt']}")
    lines.append(", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None))
    everything = {
        **row.params,
        "prompt": said["prompt"],
        "model": row.model,
        "seed": seed,
        "scheduler": scheduler,
        "jobId": row.id,
    }
    return Provenance("\n".join(lines), json.dumps(everything))
