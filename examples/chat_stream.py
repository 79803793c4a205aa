"""Streams a reply word by word with OpenAI's own Python package: python examples/chat_stream.py MESSAGE

Needs AGENTNAME_API_KEY; AGENTNAME_URL and MODEL have defaults. Other clients of OpenAI's API work the same way.
"""

import os
import sys

from openai import OpenAI

url = os.environ.get("AGENTNAME_URL", "http://localhost:3001")
client = OpenAI(base_url=f"{url}/v1", api_key=os.environ["AGENTNAME_API_KEY"])

message = " ".join(sys.argv[1:]) or "What can you help me with?"

stream = client.chat.completions.create(
    model=os.environ.get("MODEL", "smollm2-135m"),
    messages=[{"role": "system", "content": "Answer in one sentence."}, {"role": "user", "content": message}],
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
