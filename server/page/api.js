/** Calls the server's API: JSON, files and event streams. An error becomes an ApiError with the server's text. */

import { session } from "./session.js";

export class ApiError extends Error {
  constructor(message, code, retryAfter) {
    super(message);
    this.code = code; // 0: the server did not answer
    this.retryAfter = retryAfter;
  }
}

/** Dispatches "reach" when the server becomes reachable or unreachable, and "signedout" when it rejects the key. */
export const link = new EventTarget();
let reachable = true;

function note(now) {
  if (now !== reachable) {
    reachable = now;
    link.dispatchEvent(new CustomEvent("reach", { detail: now }));
  }
}

async function send(method, path, body, { signal, headers = {}, key = session.key } = {}) {
  const all = { ...headers };
  if (key) all.Authorization = `Bearer ${key}`;
  const isFile = body instanceof Blob;
  if (body !== undefined) all["Content-Type"] = isFile ? body.type || "application/octet-stream" : "application/json";
  let reply;
  try {
    reply = await fetch(path, {
      method,
      headers: all,
      body: body === undefined || isFile ? body : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    note(false);
    throw new ApiError("The server does not answer. Is it running?", 0);
  }
  note(true);
  if (reply.ok) return reply;
  const content = await reply.json().catch(() => null);
  const text = content?.error ?? `The server answered ${reply.status}.`;
  if (reply.status === 401 && key === session.key && session.me) link.dispatchEvent(new Event("signedout"));
  throw new ApiError(
    typeof text === "string" ? text : text.message,
    reply.status,
    Number(reply.headers.get("retry-after")) || null,
  );
}

export const get = async (path, options) => (await send("GET", path, undefined, options)).json();
export const getBytes = async (path, options) => (await send("GET", path, undefined, options)).blob();
export const post = async (path, body = {}, options) => (await send("POST", path, body, options)).json();
export const patch = async (path, body, options) => (await send("PATCH", path, body, options)).json();
export const remove = async (path, options) => (await send("DELETE", path, undefined, options)).json();

/** Yields server-sent events as {event, data, id}. Uses fetch, because EventSource cannot send a key. */
export async function* events(method, path, body, options) {
  const reply = await send(method, path, body, {
    ...options,
    headers: { Accept: "text/event-stream", ...options?.headers },
  });
  if (!reply.headers.get("content-type")?.startsWith("text/event-stream"))
    throw new ApiError("The server sent no events.", 0);
  options?.onopen?.();
  let rest = "";
  for await (const text of chunks(reply.body.pipeThrough(new TextDecoderStream()))) {
    const parts = (rest + text).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const event = parse(part);
      if (event) yield event;
    }
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {}); // the stream may have ended already
  }
}

function parse(part) {
  const found = { event: "message", data: "", id: undefined };
  for (const line of part.split(/\r?\n/)) {
    const [, name, value] = /^([a-z]+): ?(.*)$/.exec(line) ?? [];
    if (name === "data") found.data += (found.data && "\n") + value;
    else if (name === "event" || name === "id") found[name] = value;
  }
  if (!found.data) return null;
  try {
    return { ...found, data: JSON.parse(found.data) };
  } catch {
    return found; // not JSON, such as "[DONE]"
  }
}
