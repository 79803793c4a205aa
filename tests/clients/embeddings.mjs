// Embeds texts with OpenAI's library and the Vercel AI SDK. Prints the vectors that they got as JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, embedMany } from "ai";
import OpenAI from "openai";

const [address, apiKey, model] = process.argv.slice(2);
const baseURL = `${address}/v1`;
const texts = ["Hello", "you there"];

const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const usual = await client.embeddings.create({ model, input: texts }); // asks for base64 by itself
const short = await client.embeddings.create({ model, input: "Hello", dimensions: 2, encoding_format: "float" });

const ours = createOpenAICompatible({ name: "local", baseURL, apiKey });
const textModel = (ours.embeddingModel ?? ours.textEmbeddingModel).call(ours, model);
const one = await embed({ model: textModel, value: "Hello", maxRetries: 0 });
const many = await embedMany({ model: textModel, values: texts, maxRetries: 0 });

console.log(
  JSON.stringify({
    usual: usual.data.map(({ embedding }) => embedding),
    short: short.data[0].embedding,
    tokens: usual.usage.total_tokens,
    one: one.embedding,
    many: many.embeddings,
    "tokens of many": many.usage.tokens,
  }),
);
