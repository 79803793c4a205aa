// OpenAI's Node library and Vercel's AI SDK with the Responses API. Prints what they got as JSON.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const [address, key] = process.argv.slice(2);
const baseURL = `${address}/v1`;
const question = "How is the weather in Rome?";

async function openai() {
  const ai = new OpenAI({ baseURL, apiKey: key, maxRetries: 0 });
  const whole = await ai.responses.create({ model: "talker", instructions: "Be brief.", input: "Hi" });
  const stream = ai.responses.stream({ model: "talker", input: "Hi", previous_response_id: whole.id });
  let streamed = "";
  stream.on("response.output_text.delta", (event) => (streamed += event.delta));
  const final = await stream.finalResponse();
  const items = [];
  for await (const item of ai.responses.inputItems.list(final.id, { order: "asc" })) items.push(item.type);
  await ai.responses.delete(whole.id);
  const gone = await ai.responses.retrieve(whole.id).catch((error) => error.status);
  return { whole: whole.output_text, streamed, final: final.output_text, items, gone };
}

async function vercel() {
  const provider = createOpenAI({ baseURL, apiKey: key });
  const model = provider("talker"); // the Responses API is its default
  const weather = tool({
    description: "Says the weather of a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `sun in ${city}`,
  });
  const whole = await generateText({ model, instructions: "Be brief.", prompt: "Hi" });
  const stream = streamText({ model, prompt: "Hi" });
  let streamed = "";
  for await (const text of stream.textStream) streamed += text;
  const tools = { weather };
  const steps = { model, prompt: question, tools, stopWhen: stepCountIs(3) };
  const answer = await generateText(steps);
  const streamedAnswer = streamText(steps);
  await streamedAnswer.consumeStream();
  const city = z.object({ name: z.string(), people: z.number() });
  const object = await generateText({
    model,
    prompt: "Name a city as JSON.",
    output: Output.object({ schema: city }),
  });
  // The SDK refers to what it got before by the ids of the items.
  const messages = [
    { role: "user", content: "Hi" },
    ...whole.response.messages,
    { role: "user", content: "Two" },
  ];
  const next = await generateText({ model, messages });
  return {
    whole: whole.text,
    tokens: whole.usage.totalTokens,
    streamed,
    answer: answer.text,
    calls: answer.steps[0].toolCalls.map((call) => [call.toolName, call.input]),
    streamedAnswer: await streamedAnswer.text,
    object: object.output,
    next: next.text,
  };
}

console.log(JSON.stringify({ openai: await openai(), vercel: await vercel() }));
