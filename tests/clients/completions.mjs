// OpenAI's library for Node and its completions of raw text. Prints what it got as JSON.
import OpenAI from "openai";

const [address, apiKey, model] = process.argv.slice(2);
const ai = new OpenAI({ baseURL: `${address}/v1`, apiKey, maxRetries: 0 });
const request = { model, prompt: "The sea is", temperature: 0, echo: true, logprobs: 2, max_tokens: 6 };

const whole = await ai.completions.create(request);
let streamed = "";
for await (const chunk of await ai.completions.create({ ...request, stream: true })) {
  streamed += chunk.choices[0]?.text ?? "";
}
console.log(JSON.stringify({
  text: whole.choices[0].text, streamed, values: whole.choices[0].logprobs.token_logprobs,
}));
