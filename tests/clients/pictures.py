"""Shows a model pictures: the openai library, whole and streamed, and LangChain with each way to write a picture."""

import json
import sys

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from openai import OpenAI

address, key, picture = sys.argv[1:]  # base64 of a PNG
url = f"data:image/png;base64,{picture}"
ai = OpenAI(base_url=f"{address}/v1", api_key=key)
content = [
    {"type": "text", "text": "What is this? "},
    {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    {"type": "image_url", "image_url": {"url": url}},
]
messages = [{"role": "user", "content": content}]
whole = ai.chat.completions.create(model="seer", messages=messages)
chunks = ai.chat.completions.create(model="seer", messages=messages, stream=True)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

chain = ChatOpenAI(model="seer", base_url=f"{address}/v1", api_key=key)
of_openai = chain.invoke([HumanMessage([content[0], content[2]])])
standard = chain.invoke([HumanMessage([content[0], {"type": "image", "base64": picture, "mime_type": "image/png"}])])

print(json.dumps({"replies": [whole.choices[0].message.content, streamed, of_openai.content, standard.content]}))
