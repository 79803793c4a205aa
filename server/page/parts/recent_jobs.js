/** The results of the Create view: the current job, and thumbnails of recent jobs. */

import { complain } from "../announce.js";
import { get } from "../api.js";
import { h, say } from "../dom.js";
import { IDEAS, draft } from "../draft.js";
import { ended, follow, outdated } from "../follow.js";
import { icon } from "../icons.js";
import { jobStage, progressText, thumb } from "./job.js";

const RECENT = 12; // thumbnails

/** `models`: a promise of all models that the server has. */
export function recentJobs(models, signal) {
  const jobs = new Map(); // by id
  const place = h("div", {});
  const strip = h("div", { class: "strip" });
  const element = h("section", { class: "results", "aria-label": "Results" }, place, strip);
  let current = null;
  let stage = null;
  const on = {
    models,
    changed: take,
    gone: (job) => {
      jobs.delete(job.jobId);
      if (current === job.jobId) open(order()[0]?.jobId ?? null);
      else drawStrip();
    },
  };
  const order = () =>
    [...jobs.values()].sort((a, b) => b.createdAt.localeCompare(a.createdAt) || b.jobId.localeCompare(a.jobId));

  function open(jobId) {
    current = jobId;
    if (jobId === null) return empty();
    stage = jobStage(jobs.get(jobId), on);
    place.replaceChildren(stage.element);
    drawStrip();
  }

  function empty() {
    stage = null;
    const ideas = IDEAS[draft.type].map((text) =>
      h(
        "button",
        {
          class: "button little",
          type: "button",
          onclick: () => {
            draft.prompt = text;
            const box = document.querySelector("textarea[name=prompt]");
            box.value = text;
            box.focus();
          },
        },
        text,
      ),
    );
    place.replaceChildren(
      h(
        "div",
        { class: "empty" },
        icon("create"),
        h("h2", {}, "No results yet"),
        h("p", {}, "Describe an image or a video, and it appears here step by step. Or start from one of these:"),
        h("div", { class: "row" }, ideas),
      ),
    );
    strip.replaceChildren();
    strip.hidden = true;
  }

  function drawStrip() {
    const shown = order().slice(0, RECENT);
    strip.hidden = shown.length < 2;
    const focused = strip.contains(document.activeElement) ? document.activeElement.dataset.job : null;
    strip.replaceChildren(
      ...shown.map((job) => {
        const tile = thumb(job, () => open(job.jobId), job.jobId === current);
        tile.dataset.job = job.jobId;
        return tile;
      }),
    );
    if (focused) strip.querySelector(`[data-job="${focused}"]`)?.focus();
  }

  function take(job, preview) {
    const before = jobs.get(job.jobId);
    if (outdated(job, before)) return;
    jobs.set(job.jobId, job);
    if (job.jobId === current) stage?.update(job, preview);
    if (!before || before.status !== job.status) drawStrip();
    else moveThumb(job);
  }

  function moveThumb(job) {
    const tile = strip.querySelector(`[data-job="${job.jobId}"]`);
    const meter = tile?.querySelector(".meter > span");
    if (!meter) return;
    meter.style.width = `${job.progress * 100}%`;
    say(tile.querySelector(".nothing"), progressText(job).split(",")[0]);
  }

  function watch(jobId) {
    follow(jobId, take, signal).catch((error) => {
      if (error.code === 404) {
        jobs.delete(jobId);
        drawStrip();
      } else complain(error);
    });
  }

  return {
    element,
    async load() {
      const reply = await get(`/api/jobs?limit=${RECENT}`, { signal });
      for (const job of reply.jobs) if (job.status !== "canceled" && !jobs.has(job.jobId)) jobs.set(job.jobId, job);
      if (current === null) open(order()[0]?.jobId ?? null);
      else drawStrip();
      for (const job of reply.jobs) if (!ended(job)) watch(job.jobId);
    },
    async follow(jobId) {
      take(await get(`/api/status/${jobId}`, { signal }));
      open(jobId);
      watch(jobId);
      if (matchMedia("(max-width: 60rem)").matches) element.scrollIntoView({ behavior: "smooth", block: "start" });
    },
  };
}
