// Each Node client holds a conversation of six turns, whole and then streamed, and sends back what it made of each
// reply. Prints the last reply of each as JSON: {"CLIENT, WAY": {text, thinking}}.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import OpenAI from "openai";

const [address, apiKey] = process.argv.slice(2);
const baseURL = `${address}/v1`;
const QUESTIONS = [1, 2, 3, 4, 5, 6].map((n) => `Question ${n} 👋`);

async function openaiNode(streamed) {
  const ai = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
  const messages = [{ role: "system", content: "Be brief." }];
  let last;
  for (const content of QUESTIONS) {
    messages.push({ role: "user", content });
    const request = { model: "talker", messages, temperature: 0 };
    if (streamed) {
      const stream = ai.chat.completions.stream({ ...request, stream_options: { include_usage: true } });
      last = (await stream.finalChatCompletion()).choices[0].message;
    } else {
      last = (await ai.chat.completions.create(request)).choices[0].message;
    }
    messages.push(last);
  }
  return { text: last.content, thinking: last.reasoning_content ?? "" };
}

const vercel = (model) => async (streamed) => {
  const messages = [];
  let text, thinking;
  for (const content of QUESTIONS) {
    messages.push({ role: "user", content });
    const request = { model, system: "Be brief.", messages, temperature: 0, maxRetries: 0 };
    const result = streamed ? streamText(request) : await generateText(request);
    text = await result.text;
    thinking = (await result.reasoningText) ?? "";
    messages.push(...(await result.response).messages);
  }
  return { text, thinking };
};

const CLIENTS = {
  "openai-node": openaiNode,
  "ai-sdk-openai-compatible": vercel(createOpenAICompatible({ name: "ours", baseURL, apiKey, includeUsage: true })("talker")),
  "ai-sdk-openai": vercel(createOpenAI({ baseURL, apiKey }).chat("talker")),
};

const last = {};
for (const [name, hold] of Object.entries(CLIENTS))
  for (const way of ["whole", "streamed"]) last[`${name}, ${way}`] = await hold(way === "streamed");
console.log(JSON.stringify(last));
