// Sends pictures and clips to be changed: OpenAI's unmodified Node client and the AI SDK. Prints "ok" as JSON.
// Arguments: as those of pictures_in.py.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { generateImage } from "ai";
import OpenAI, { toFile } from "openai";

const [address, apiKey, retoucher, follower, reviser, ...pictures] = process.argv.slice(2);
const [picture, mask] = pictures.map((each) => Buffer.from(each, "base64"));
const ai = new OpenAI({ baseURL: `${address}/v1`, apiKey, maxRetries: 0 });
const file = (data, name = "a.png", type = "image/png") => toFile(data, name, { type });

function assertPictures(base64, n) {
  assert.equal(base64.length, n);
  for (const each of base64) assert.equal(Buffer.from(each, "base64").subarray(1, 4).toString(), "PNG");
}
const assertReply = (reply, n) => assertPictures(reply.data.map((image) => image.b64_json), n);

assertReply(await ai.images.edit({
  image: await file(picture), mask: await file(mask), prompt: "a hat", model: retoucher, n: 2, steps: 2,
}), 2);
assertReply(await ai.images.edit({
  image: [await file(picture), await file(mask)], prompt: "both", model: follower, size: "64x64", steps: 2,
}), 1);
assertReply(await ai.images.createVariation({ image: await file(picture), model: retoucher, steps: 2 }), 1);

const provider = createOpenAI({ baseURL: `${address}/v1`, apiKey });
const sdk = await generateImage({
  model: provider.image(retoucher), prompt: { text: "a hat", images: [picture], mask }, n: 1, maxRetries: 0,
});
assertPictures(sdk.images.map((image) => image.base64), 1);

async function finished(video) {
  while (video.status === "queued" || video.status === "in_progress") {
    await new Promise((resolve) => setTimeout(resolve, 50));
    video = await ai.videos.retrieve(video.id);
  }
  assert.equal(video.status, "completed");
  return video;
}
const request = { prompt: "Waves", model: reviser };
const sent = await finished(await ai.videos.create({ ...request, input_reference: await file(picture) }));
const image_url = `data:image/png;base64,${pictures[0]}`;
const named = await finished(await ai.videos.create({ ...request, input_reference: { image_url } }));
const remix = await finished(await ai.videos.remix(sent.id, { prompt: "Night" }));
assert.equal(remix.remixed_from_video_id, sent.id);
const clip = Buffer.from(await (await ai.videos.downloadContent(remix.id)).arrayBuffer());
const edits = [
  await finished(await ai.videos.edit({ prompt: "Snow", model: reviser, video: { id: remix.id } })),
  await finished(await ai.videos.edit({
    prompt: "Snow", model: reviser, video: await file(clip, "a.mp4", "video/mp4"),
  })),
];
assert.equal(new Set([sent, named, remix, ...edits].map((video) => video.size)).size, 1);

console.log(JSON.stringify("ok"));
