// Uses OpenAI's unmodified Node client for chat, whole and streamed, images and a video. Prints "ok" as JSON.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [address, apiKey, chatModel, imageModel, videoModel] = process.argv.slice(2);
const ai = new OpenAI({ baseURL: `${address}/v1`, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Hi 👋" }];
const request = { model: chatModel, messages, temperature: 0, max_tokens: 12 };

const whole = await ai.chat.completions.create(request);
assert.ok(whole.choices[0].message.content);

let text = "", usage = null, chunks = 0;
const stream = await ai.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
  chunks += 1;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.total_tokens, whole.usage.total_tokens);
assert.ok(chunks > 2);

const image = { model: imageModel, prompt: "A city", steps: 2 };
const inline = await ai.images.generate({ ...image, response_format: "b64_json" });
assert.equal(Buffer.from(inline.data[0].b64_json, "base64").subarray(1, 4).toString(), "PNG");
const linked = await ai.images.generate({ ...image, response_format: "url" });
assert.equal((await fetch(linked.data[0].url)).status, 200);

let video = await ai.videos.create({ model: videoModel, prompt: "Waves", seconds: "1" });
while (video.status === "queued" || video.status === "in_progress") video = await ai.videos.retrieve(video.id);
assert.equal(video.status, "completed");
const clip = Buffer.from(await (await ai.videos.downloadContent(video.id)).arrayBuffer());
assert.equal(clip.subarray(4, 8).toString(), "ftyp");
await ai.videos.delete(video.id);
await assert.rejects(ai.videos.retrieve(video.id), OpenAI.NotFoundError);

console.log(JSON.stringify("ok"));
