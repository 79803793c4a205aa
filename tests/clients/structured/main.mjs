// Checks tools and structured output with Node's clients: ADDRESS KEY MODEL [CHECK …], all checks by default.
// Prints what each check got as JSON: {"CHECK": …}.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, isStepCount, Output, streamObject, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const [address, apiKey, name, ...wanted] = process.argv.slice(2);
const baseURL = `${address}/v1`;
// Bounded, so that also a small model that rambles comes to an end.
const name30 = z.string().max(30);
const Weather = z.object({ city: name30, degrees: z.int().min(-60).max(60), sky: z.enum(["clear", "cloudy"]) });
const City = z.object({ city: name30 });
const getWeather = ({ city }) => `20 degrees in ${city}`;

const ai = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const request = (question) => ({ model: name, messages: [{ role: "user", content: question }] });
const format = zodResponseFormat(Weather, "weather");
const weatherTool = zodFunction({ name: "get_weather", parameters: City, description: "Says the weather in a city." });
const runnable = {
  type: "function",
  function: { name: "get_weather", function: getWeather, parse: JSON.parse, parameters: z.toJSONSchema(City), description: "Says the weather." },
};

const required = { tools: [weatherTool], tool_choice: "required", parallel_tool_calls: false };

const openaiChecks = {
  parse: async (q) => (await ai.chat.completions.parse({ ...request(q), response_format: format })).choices[0].message.parsed,
  parse_streamed: async (q) => {
    const stream = ai.chat.completions.stream({ ...request(q), response_format: format });
    return (await stream.finalChatCompletion()).choices[0].message.parsed;
  },
  parsed_call: async (q) => {
    const made = await ai.chat.completions.parse({ ...request(q), ...required });
    return made.choices[0].message.tool_calls[0].function.parsed_arguments;
  },
  parsed_call_streamed: async (q) => {
    const stream = ai.chat.completions.stream({ ...request(q), ...required });
    return (await stream.finalChatCompletion()).choices[0].message.tool_calls[0].function.parsed_arguments;
  },
  run_tools: async (q) => ai.chat.completions.runTools({ ...request(q), tools: [runnable] }).finalContent(),
  run_tools_streamed: async (q) =>
    ai.chat.completions.runTools({ ...request(q), tools: [runnable], stream: true }).finalContent(),
};

const vercelChecks = (model) => {
  const options = (prompt) => ({ model, prompt, maxRetries: 0 });
  const tools = {
    get_weather: tool({ description: "Says the weather in a city.", inputSchema: City, execute: getWeather }),
  };
  return {
    generate_object: async (q) => (await generateObject({ ...options(q), schema: Weather })).object,
    stream_object: async (q) => {
      const result = streamObject({ ...options(q), schema: Weather });
      for await (const _ of result.partialObjectStream);
      return result.object;
    },
    output: async (q) =>
      (await generateText({ ...options(q), output: Output.object({ schema: Weather }) })).output,
    output_streamed: async (q) => {
      const result = streamText({ ...options(q), output: Output.object({ schema: Weather }) });
      for await (const _ of result.partialOutputStream);
      return result.output;
    },
    tools: async (q) => (await generateText({ ...options(q), tools, stopWhen: isStepCount(3) })).text,
    tools_streamed: async (q) => streamText({ ...options(q), tools, stopWhen: isStepCount(3) }).text,
    named_call: async (q) =>
      (await generateText({ ...options(q), tools, toolChoice: { type: "tool", toolName: "get_weather" } })).toolCalls[0].input,
  };
};

const CLIENTS = {
  "openai-node": openaiChecks,
  "ai-sdk-openai-compatible": vercelChecks(
    createOpenAICompatible({ name: "ours", baseURL, apiKey, supportsStructuredOutputs: true })(name),
  ),
  "ai-sdk-openai": vercelChecks(createOpenAI({ baseURL, apiKey }).chat(name)),
};

const got = {};
for (const [client, checks] of Object.entries(CLIENTS))
  for (const [check, run] of Object.entries(checks)) {
    const full = `${client}.${check}`;
    if (wanted.length && !wanted.includes(full)) continue;
    try {
      got[full] = await run(`[${full}] How is the weather in Rome?`);
    } catch (error) {
      console.error(`in ${full}`);
      throw error;
    }
  }
console.log(JSON.stringify(got));
