// Ollama's own Node client: chats, texts, streams, tools, formats, embeddings, models, errors. Prints JSON.

import { Ollama } from "ollama";

const [host, key] = process.argv.slice(2);
const client = new Ollama({ host, headers: { authorization: `Bearer ${key}` } });
const messages = [{ role: "user", content: "Hi" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "weather", description: "Tells the weather.", parameters } }];

const texts = [];
let last;
for await (const part of await client.chat({ model: "talker", messages, stream: true })) {
  texts.push(part.message.content);
  last = part;
}
const pieces = [];
for await (const part of await client.generate({ model: "talker", prompt: "Hi", stream: true })) pieces.push(part.response);

const asked = await client.chat({ model: "talker", messages, tools });
const result = { role: "tool", tool_name: "weather", content: "Sunny" };
const answered = await client.chat({ model: "talker", messages: [...messages, asked.message, result], tools });
const structured = await client.chat({ model: "talker", messages, format: parameters });
const failure = await client.chat({ model: "none", messages }).catch((error) => error);

console.log(
  JSON.stringify({
    whole: (await client.chat({ model: "talker:latest", messages })).message.content,
    streamed: texts.join(""),
    end: [last.done, last.done_reason, last.eval_count],
    text: pieces.join(""),
    call: asked.message.tool_calls[0].function.name,
    answer: answered.message.content,
    structured: Object.keys(JSON.parse(structured.message.content)),
    embedded: (await client.embed({ model: "embedder", input: ["ab", "c"] })).embeddings.length,
    models: (await client.list()).models.map((model) => model.name),
    running: (await client.ps()).models.length,
    shown: (await client.show({ model: "talker" })).capabilities,
    error: [failure.status_code, failure.error],
  }),
);
