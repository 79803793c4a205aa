/** The chapters of the API view as data. They follow the given API contract, with this server's additions. */

export const CHAPTERS = [
  {
    id: "start",
    title: "Getting started",
    text: ["Every request carries an API key. Make your first one to generate an image:"],
    example: {
      method: "POST",
      path: "/api/generate",
      body: { prompt: "A futuristic city at night", type: "image", aspect_ratio: "16:9" },
    },
    reply: { jobId: "job_1234567890_abc123", status: "queued" },
  },
  {
    id: "images",
    title: "Images",
    text: [
      "Generate images from text descriptions. The reply is immediate and contains the job's id. " +
        "Poll its status, or read its events, until it has completed.",
    ],
    fields: [
      ["prompt", "string", true, "Text description of the image to generate"],
      ["type", "string", true, 'Must be "image"'],
      ["aspect_ratio", "string", false, '"16:9", "1:1", "9:16"'],
      ["model", "string", false, "A name from GET /api/models"],
      [
        "seed, steps, guidance_scale, negative_prompt",
        "",
        false,
        "Default: the model's own; the status shows the values used",
      ],
      ["width, height", "integer", false, "Instead of aspect_ratio"],
      ["n", "integer", false, "1 to 8 outputs; output i has seed + i"],
      ["output_format", "string", false, '"png", "webp", "jpeg"'],
    ],
    example: {
      method: "POST",
      path: "/api/generate",
      body: { prompt: "A red circle at the left on a blue background", type: "image", seed: 7 },
    },
  },
  {
    id: "status",
    title: "Check status",
    text: [
      "The status is queued, processing, completed, failed or canceled, with stage, step, place in the queue and an " +
        "estimate of the remaining time. When the job has completed, outputs[].url opens a file without a key until " +
        "it expires.",
    ],
    example: { method: "GET", path: "/api/status/{jobId}" },
  },
  {
    id: "videos",
    title: "Videos",
    text: ["Create short videos from text prompts."],
    fields: [
      ["prompt", "string", true, "Text description of the video"],
      ["type", "string", true, 'Must be "video"'],
      ["duration", "integer", false, "Seconds, 1 to 60 and at most the model's limit"],
      ["aspect_ratio", "string", false, '"16:9", "1:1", "9:16"'],
      ["num_frames", "integer", false, "Instead of duration"],
      ["output_format", "string", false, '"mp4", "webm", "gif", "frames"'],
    ],
    example: {
      method: "POST",
      path: "/api/generate",
      body: { prompt: "Ocean waves at sunset", type: "video", duration: 2, aspect_ratio: "16:9" },
    },
  },
  {
    id: "chat",
    title: "Chat",
    text: [
      "Send messages and receive replies. With stream: true the text arrives as it is generated, as server-sent " +
        "events. Pass the conversationId of an earlier reply to continue that conversation.",
    ],
    fields: [
      ["message", "string", true, "1 to 32,000 characters"],
      ["stream", "boolean", false, "thinking and delta events, then done"],
      ["conversationId", "string", false, "From an earlier reply"],
      ["thinking", "boolean or string", false, '"low", "medium", "high"; false: reply without thinking'],
      ["system, model, max_tokens, temperature, top_p, top_k", "", false, "Default: the model's own"],
      ["min_p, repetition_penalty, seed, stop", "", false, "Default: the model's own"],
    ],
    example: { method: "POST", path: "/api/chat", body: { message: "What can you help me with?" } },
    reply: { reply: "I can help you generate images, videos…", timestamp: "2026-02-28T00:00:00.000Z" },
  },
  {
    id: "limits",
    title: "Rate limits",
    text: [
      "Limits apply per key and UTC day. The RateLimit headers of each counted request show what is left, and a 429 " +
        "tells when to retry. The plans are configurable; these are the defaults.",
    ],
    table: [
      ["Plan", "Images / day", "Videos / day", "Chat messages"],
      ["Free", "10", "2", "50"],
      ["Pro", "200", "50", "Unlimited"],
      ["Enterprise", "Unlimited", "Unlimited", "Unlimited"],
    ],
    example: { method: "GET", path: "/api/me" },
  },
  {
    id: "errors",
    title: "Errors",
    text: ["All errors have one JSON format. The text names the field and its allowed values."],
    reply: { error: "Descriptive error message", code: 400 },
    table: [
      ["Status", "Meaning"],
      ["400", "Bad request: invalid parameters"],
      ["401", "Missing or invalid API key"],
      ["403", "The key lacks the scope"],
      ["404", "Unknown path, job or model"],
      ["409", "Conflict"],
      ["413", "The body is larger than the route allows"],
      ["429", "Rate limit exceeded"],
      ["500", "Internal server error"],
      ["502", "Backend unavailable"],
    ],
  },
];

/** Renders an example with `key` in each language. */
export const LANGUAGES = {
  curl: ({ method, path, body }, base, key) =>
    [
      `curl ${method === "GET" ? "" : `-X ${method} `}${base}${path}`,
      `-H 'Authorization: Bearer ${key}'`,
      ...(body ? ["-H 'Content-Type: application/json'", `-d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`] : []),
    ].join(" \\\n  "),
  Python: ({ method, path, body }, base, key) =>
    [
      "import json, urllib.request",
      "",
      "request = urllib.request.Request(",
      `    "${base}${path}",`,
      `    method="${method}",`,
      `    headers={"Authorization": "Bearer ${key}"${body ? ', "Content-Type": "application/json"' : ""}},`,
      ...(body ? [`    data=json.dumps(${python(body)}).encode(),`] : []),
      ")",
      "print(json.load(urllib.request.urlopen(request)))",
    ].join("\n"),
  JavaScript: ({ method, path, body }, base, key) =>
    [
      `const reply = await fetch("${base}${path}", {`,
      `  method: "${method}",`,
      `  headers: { Authorization: "Bearer ${key}"${body ? ', "Content-Type": "application/json"' : ""} },`,
      ...(body ? [`  body: JSON.stringify(${JSON.stringify(body)}),`] : []),
      "});",
      "console.log(await reply.json());",
    ].join("\n"),
};

function python(body) {
  return `{${Object.entries(body)
    .map(
      ([name, value]) =>
        `"${name}": ${typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value)}`,
    )
    .join(", ")}}`;
}
