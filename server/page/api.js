/** The server's HTTP interface: JSON in, JSON out, events as they come; every error an ApiError with the server's own words. */

import { session } from "./session.js";

export class ApiError extends Error {
  constructor(message, code, retryAfter) {
    super(message);
    this.code = code; // 0: the server did not answer
    this.retryAfter = retryAfter;
  }
}

/** Told of every change between reachable and not, and of a key that is no longer taken. */
export const link = new EventTarget();
let reachable = true;

function note(now) {
  if (now !== reachable) {
    reachable = now;
    link.dispatchEvent(new CustomEvent("reach", { detail: now }));
  }
}

async function send(method, path, body, { signal, headers = {}, key = session.key } = {}) {
  const said = { ...headers };
  if (key) said.Authorization = `Bearer ${key}`;
  if (body !== undefined) said["Content-Type"] = "application/json";
  let reply;
  try {
    reply = await fetch(path, { method, headers: said, body: body === undefined ? undefined : JSON.stringify(body), signal, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    note(false);
    throw new ApiError("The server does not answer. Is it running?", 0);
  }
  note(true);
  if (reply.ok) return reply;
  const told = await reply.json().catch(() => null);
  const text = told?.error ?? `The server answered ${reply.status}.`;
  if (reply.status === 401 && key === session.key && session.me) link.dispatchEvent(new Event("signedout"));
  throw new ApiError(typeof text === "string" ? text : text.message, reply.status, Number(reply.headers.get("retry-after")) || null);
}

export const get = async (path, options) => (await send("GET", path, undefined, options)).json();
export const post = async (path, body = {}, options) => (await send("POST", path, body, options)).json();
export const patch = async (path, body, options) => (await send("PATCH", path, body, options)).json();
export const remove = async (path, options) => (await send("DELETE", path, undefined, options)).json();

/** A reply of server-sent events, one {event, data, id} at a time. EventSource cannot send a key; fetch can. */
export async function* events(method, path, body, options) {
  const reply = await send(method, path, body, { ...options, headers: { Accept: "text/event-stream", ...options?.headers } });
  if (!reply.headers.get("content-type")?.startsWith("text/event-stream")) throw new ApiError("The server sent no events.", 0);
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
    reader.cancel().catch(() => {}); // it may have ended by itself
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
    return found; // "[DONE]" and the like
  }
}
