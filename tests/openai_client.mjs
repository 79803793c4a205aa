// OpenAI's Node client, unmodified: chat whole and streamed, pictures, a video. Prints "ok".
import assert from "node:assert/strict";
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const ai = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Hi 👋" }];

const whole = await ai.chat.completions.create({ model: "talker", messages });
assert.equal(whole.choices[0].message.content, "You said: Hi 👋");

let text = "", usage = null;
const stream = await ai.chat.completions.create({ model: "talker", messages, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, "You said: Hi 👋");
assert.equal(usage.total_tokens, whole.usage.total_tokens);

const picture = await ai.images.generate({ model: "painter", prompt: "A city", response_format: "b64_json" });
assert.equal(Buffer.from(picture.data[0].b64_json, "base64").subarray(1, 4).toString(), "PNG");
const linked = await ai.images.generate({ prompt: "A city", response_format: "url" });
assert.equal((await fetch(linked.data[0].url)).status, 200);

let video = await ai.videos.create({ model: "filmer", prompt: "Waves", seconds: "4" });
while (video.status === "queued" || video.status === "in_progress") video = await ai.videos.retrieve(video.id);
assert.equal(video.status, "completed");
const clip = Buffer.from(await (await ai.videos.downloadContent(video.id)).arrayBuffer());
assert.equal(clip.subarray(4, 8).toString(), "ftyp");
await ai.videos.delete(video.id);
await assert.rejects(ai.videos.retrieve(video.id), OpenAI.NotFoundError);

console.log("ok");
