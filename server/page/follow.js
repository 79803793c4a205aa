/** A job's status until it has ended: told by one stream of events for all jobs, asked for now and then in case that breaks. */

import { events, get } from "./api.js";

const RUNNING_MS = 400; // between questions while no stream tells
const WAITING_MS = 900;
const AWAY_MS = 3000; // the server does not answer, nobody looks, or the stream tells anyhow
const AGAIN_MS = 2000; // before the stream is tried again

export const ended = (job) => ["completed", "failed", "canceled"].includes(job.status);

/** Whether `now` tells less than `before`: an end is final, but an answer may be read after the stream told of what came later. */
export const outdated = (now, before) => Boolean(before && ended(before) && !ended(now));

const followers = new Set(); // {jobId, hear(event, data), wake()}
let stream = null; // an AbortController while one is wanted
let streaming = false;

/** Calls `onchange(status, preview)` with each change. Returns the last status; throws when the job is gone or `signal` says stop. */
export async function follow(jobId, onchange, signal) {
  let job = null;
  let heard = null;
  const me = {
    jobId,
    hear(name, data) {
      if (!job) return;
      if (name === "preview") return onchange(job, `data:${data.mimeType};base64,${data.image}`);
      job = { ...job, ...data };
      if (job.status !== "queued") job.queue = null;
      onchange(job);
      if (ended(job)) heard?.abort();
    },
    wake: () => heard?.abort(),
  };
  followers.add(me);
  listen();
  try {
    for (;;) {
      signal.throwIfAborted();
      let wait = AWAY_MS;
      try {
        if (!job || !ended(job)) {
          const now = await get(`/api/status/${jobId}`, { signal });
          if (!outdated(now, job)) onchange((job = now));
        }
        if (ended(job)) return job;
        if (!streaming && !document.hidden) wait = job.status === "processing" ? RUNNING_MS : WAITING_MS;
      } catch (error) {
        if (error.name === "AbortError" || error.code === 404 || error.code === 401) throw error;
      }
      heard = new AbortController();
      await pause(wait, AbortSignal.any([signal, heard.signal])).catch(() => {}); // either woken, or stopped: seen above
    }
  } finally {
    followers.delete(me);
    if (!followers.size) { stream?.abort(); stream = null; }
  }
}

/** One stream however many jobs: a browser has six connections to a server, and pictures need some. */
async function listen() {
  if (stream) return;
  const mine = (stream = new AbortController());
  const { signal } = mine;
  while (!signal.aborted) {
    try {
      const onopen = () => { streaming = true; for (const follower of followers) follower.wake(); };
      for await (const { event, data } of events("GET", "/api/events?preview=1", undefined, { signal, onopen })) {
        for (const follower of followers) if (follower.jobId === data.jobId) follower.hear(event, data);
      }
    } catch (error) {
      if (error.code === 404 || error.code === 401) break; // there is none: the questions go on
    } finally {
      if (stream === mine || !stream) streaming = false;
    }
    await pause(AGAIN_MS, signal).catch(() => {}); // stopped: the loop sees it
  }
}

export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

/** Runs `look` every `ms`, while the tab is seen, until `signal`. Errors go to `onerror`, and it goes on. */
export async function every(ms, signal, look, onerror) {
  while (!signal.aborted) {
    if (!document.hidden) await look().catch((error) => error.name === "AbortError" || onerror(error));
    await pause(ms, signal).catch(() => {}); // stopped: the loop sees it
  }
}
