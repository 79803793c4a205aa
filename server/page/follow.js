/** Follows jobs until they end, by one event stream for all of them, and by polling in case the stream breaks. */

import { events, get } from "./api.js";

// Intervals of polling a job's status:
const RUNNING_MS = 400; // without a stream, while the job runs
const WAITING_MS = 900; // without a stream, while the job waits
const SLOW_MS = 3000; // with a stream, in a hidden tab, or while the server does not answer
const RECONNECT_MS = 2000; // before the stream is opened again

export const ended = (job) => ["completed", "failed", "canceled"].includes(job.status);

/** Whether `now` is older than `before`: a status can arrive after the stream has reported the end of the job. */
export const outdated = (now, before) => Boolean(before && ended(before) && !ended(now));

const followers = new Set(); // {jobId, receive(event, data), wake()}
let stream = null; // an AbortController while the stream is needed
let streaming = false;

/** Calls `onchange(status, preview)` after each change, and returns the last status. Throws when the job does not exist
 * or `signal` is aborted. */
export async function follow(jobId, onchange, signal) {
  let job = null;
  let sleep = null; // an AbortController that ends the pause between two polls
  const follower = {
    jobId,
    receive(name, data) {
      if (!job) return;
      if (name === "preview") return onchange(job, `data:${data.mimeType};base64,${data.image}`);
      job = { ...job, ...data };
      if (job.status !== "queued") job.queue = null;
      onchange(job);
      if (ended(job)) sleep?.abort();
    },
    wake: () => sleep?.abort(),
  };
  followers.add(follower);
  listen();
  try {
    for (;;) {
      signal.throwIfAborted();
      let wait = SLOW_MS;
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
      sleep = new AbortController();
      await pause(wait, AbortSignal.any([signal, sleep.signal])).catch(() => {}); // woken, or aborted as checked above
    }
  } finally {
    followers.delete(follower);
    if (!followers.size) {
      stream?.abort();
      stream = null;
    }
  }
}

/** Reads one stream for all jobs: a browser opens six connections to a server, and images need some of them. */
async function listen() {
  if (stream) return;
  const mine = (stream = new AbortController());
  const { signal } = mine;
  while (!signal.aborted) {
    try {
      const onopen = () => {
        streaming = true;
        for (const follower of followers) follower.wake();
      };
      for await (const { event, data } of events("GET", "/api/events?preview=1", undefined, { signal, onopen })) {
        for (const follower of followers) if (follower.jobId === data.jobId) follower.receive(event, data);
      }
    } catch (error) {
      if (error.code === 404 || error.code === 401) break; // no stream: polling goes on
    } finally {
      if (stream === mine || !stream) streaming = false;
    }
    await pause(RECONNECT_MS, signal).catch(() => {}); // aborted: the loop ends
  }
}

export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        reject(signal.reason);
      },
      { once: true },
    );
  });
}

/** Calls `refresh` every `ms` while the tab is visible, until `signal` is aborted. Errors go to `onerror`. */
export async function every(ms, signal, refresh, onerror) {
  while (!signal.aborted) {
    if (!document.hidden) await refresh().catch((error) => error.name === "AbortError" || onerror(error));
    await pause(ms, signal).catch(() => {}); // aborted: the loop ends
  }
}
