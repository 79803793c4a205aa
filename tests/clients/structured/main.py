"""Checks tools and structured output with Python's clients: ADDRESS KEY MODEL [CHECK …], all checks by default.

Prints what each check got as JSON: {"CHECK": …}. Run with .venv-clients.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import of_instructor
import of_langchain
import of_litellm
import of_openai
import of_pydantic_ai
from asked import Asked
from pydantic import BaseModel

CHECKS = {
    f"{module.__name__.removeprefix('of_')}.{check.__name__}": check
    for module in (of_openai, of_langchain, of_litellm, of_instructor, of_pydantic_ai)
    for check in module.CHECKS
}


def plain(value: Any) -> Any:
    """Returns a model that was filled as JSON; whether the library made one shows by its name."""
    return {type(value).__name__: value.model_dump()} if isinstance(value, BaseModel) else str(value)


async def main() -> None:
    address, key, model, *names = sys.argv[1:]
    got = {}
    for name in names or CHECKS:
        began = time.monotonic()
        asked = Asked(f"{address}/v1", key, model, f"[{name}] How is the weather in Rome?")
        try:
            got[name] = await CHECKS[name](asked)
        except Exception as error:
            error.add_note(f"in {name}")
            raise
        print(f"{time.monotonic() - began:.2f} s {name}", file=sys.stderr)
    print(json.dumps(got, default=plain))


asyncio.run(main())
