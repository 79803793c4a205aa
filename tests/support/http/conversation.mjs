// Holds a conversation of six turns with one client, whole or streamed, and sends back what the client made of each
// reply. Prints the last reply as JSON: {text, thinking}.
import OpenAI from "openai";

const [baseURL, apiKey, client, way] = process.argv.slice(2);
const streamed = way === "streamed";
const QUESTIONS = [1, 2, 3, 4, 5, 6].map((n) => `Question ${n} 👋`);

async function openaiNode() {
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

async function vercel(model) {
  const { generateText, streamText } = await import("ai");
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
}

const CLIENTS = {
  openai: openaiNode,
  "@ai-sdk/openai-compatible": async () => {
    const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
    return vercel(createOpenAICompatible({ name: "ours", baseURL, apiKey, includeUsage: true })("talker"));
  },
  "@ai-sdk/openai": async () => {
    const { createOpenAI } = await import("@ai-sdk/openai");
    return vercel(createOpenAI({ baseURL, apiKey }).chat("talker"));
  },
};

console.log(JSON.stringify(await CLIENTS[client]()));
