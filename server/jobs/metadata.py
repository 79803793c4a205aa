"""Builds the metadata that is written into a file: how its image or clip was made. Pure functions."""

from __future__ import annotations

import json

from server.jobs.encoding import FileMetadata
from server.store.jobs import JobRow


def file_metadata(row: JobRow, index: int, scheduler: str) -> FileMetadata:
    """The metadata of output `index`. scheduler: class name of the noise scheduler that ran."""
    request, seed = row.request, row.request["seed"] + index
    parameters = {
        "Steps": request["steps"],
        "Sampler": scheduler,
        "CFG scale": request["guidance_scale"],
        "Seed": seed,
        "Size": f"{request['width']}x{request['height']}",
        "Model": row.model,
        # A1111 counts the last layer as 1.
        "Clip skip": request["clip_skip"] + 1 if request.get("clip_skip") else None,
    }
    lines = [request["prompt"]]
    if request["negative_prompt"]:
        lines.append(f"Negative prompt: {request['negative_prompt']}")
    lines.append(", ".join(f"{name}: {value}" for name, value in parameters.items() if value is not None))
    everything = {
        **row.params,
        "prompt": request["prompt"],
        "model": row.model,
        "seed": seed,
        "scheduler": scheduler,
        "jobId": row.id,
    }
    return FileMetadata("\n".join(lines), json.dumps(everything))
