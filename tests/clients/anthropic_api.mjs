// Anthropic's own Node client: messages, streams, tools, counts, models and errors. Prints JSON.

import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { z } from "zod";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const hi = { model: "talker", max_tokens: 99, messages: [{ role: "user", content: "Hi" }] };

const whole = await client.messages.create({ ...hi, system: [{ type: "text", text: "Be brief." }] });

const texts = [];
const stream = client.messages.stream(hi).on("text", (text) => texts.push(text));
const final = await stream.finalMessage();

const raw = [];
for await (const event of await client.messages.create({ ...hi, stream: true })) raw.push(event.type);

const weather = betaZodTool({
  name: "weather",
  description: "Tells the weather of a city.",
  inputSchema: z.object({ city: z.string() }),
  run: async ({ city }) => `Sunny in ${city}`,
});
const loop = await client.beta.messages.toolRunner({ ...hi, tools: [weather] }).runUntilDone();
const streamedLoop = client.beta.messages.toolRunner({ ...hi, tools: [weather], stream: true });
const inputs = [];
for await (const turn of streamedLoop) {
  for await (const event of turn) {
    if (event.type === "content_block_delta" && event.delta.type === "input_json_delta") {
      inputs.push(event.delta.partial_json);
    }
  }
}

const models = [];
for await (const model of client.models.list({ limit: 1 })) models.push(model.id);

const failure = await client.messages.create({ ...hi, model: "none" }).catch((error) => error);
console.log(
  JSON.stringify({
    whole: whole.content[0].text,
    tokens: whole.usage.input_tokens + whole.usage.output_tokens,
    streamed: texts.join(""),
    final: final.content[0].text,
    events: raw,
    loop: loop.content[0].text,
    "streamed loop": inputs.join(""),
    counted: (await client.messages.countTokens({ model: hi.model, messages: hi.messages })).input_tokens,
    models,
    error: [failure instanceof Anthropic.NotFoundError, failure.status, failure.type, failure.requestID !== undefined],
  }),
);
