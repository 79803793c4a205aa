"""Makes a picture of each line of standard input, showing progress: python examples/batch.py [FOLDER] < prompts.txt

All prompts are submitted at once, so that the server can batch them. The plan of the key limits how many jobs may wait.
"""

import asyncio
import sys
from pathlib import Path

from server.client import AsyncAgentName


async def make(client: AsyncAgentName, number: int, prompt: str, folder: Path) -> None:
    accepted = await client.generate(prompt, seed=number)
    async for job in client.watch(accepted.job_id):  # follows GET /api/jobs/:jobId/events
        print(f"{number} {job.stage} {job.progress:.0%}", flush=True)
    if job.status == "completed":
        path = await client.save(job.outputs[0], folder / f"{number}.png")
        print(f"{number} wrote {path}", flush=True)
    else:
        print(f"{number} {job.status}: {job.error.message if job.error else ''}", flush=True)


async def main(folder: Path, prompts: list[str]) -> None:
    async with AsyncAgentName() as client, asyncio.TaskGroup() as group:
        for number, prompt in enumerate(prompts, 1):
            group.create_task(make(client, number, prompt, folder))


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    target.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(target, [line.strip() for line in sys.stdin if line.strip()]))
