"""Makes a picture and a clip side by side with this project's client: python examples/picture_and_clip.py [FOLDER]

The client reads AGENTNAME_URL and AGENTNAME_API_KEY; without them it finds the server of this machine and its key.
"""

import sys
from pathlib import Path

from server.client import AgentName, JobDidNotComplete

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")

with AgentName() as client:
    # Both jobs are submitted before the first wait, so that the server works on both, step by step.
    accepted = {
        "city.png": client.generate("A futuristic city at night", aspect_ratio="16:9", seed=6),
        "waves.mp4": client.generate("Ocean waves at sunset", type="video", duration=2),
    }
    for name, job in accepted.items():
        try:
            done = client.wait(job.job_id, on_change=lambda job: print(f"{job.type}: {job.stage} {job.progress:.0%}"))
        except JobDidNotComplete as error:
            sys.exit(f"{name}: {error}")
        output = done.outputs[0]
        path = client.save(output, folder / name)
        print(f"wrote {path}: {output.width} × {output.height}, seed {output.seed}, by {done.model}")
