/** One job: its outputs or its progress, its settings, and its actions. */

import { announce } from "../announce.js";
import { h, say } from "../dom.js";
import { ended } from "../follow.js";
import { bytes, count, left, seconds, when } from "../format.js";
import { icon } from "../icons.js";
import { comparable } from "./compare.js";
import { jobActions, outputActions } from "./job_actions.js";

const STAGES = {
  waiting: "Waiting",
  loading_model: "Loading the model",
  encoding: "Encoding the prompt",
  decoding: "Decoding",
  saving: "Saving",
  done: "Done",
};
const WAITS = { turn: "waiting for its turn", model_load: "its model is loading" };
export const STATES = {
  queued: "Waiting",
  processing: "Running",
  completed: "Done",
  failed: "Failed",
  canceled: "Canceled",
};

/** The progress in one line. */
export function progressText(job) {
  if (job.status === "queued") {
    if (!job.queue) return "Waiting";
    const place =
      job.queue.position === 0
        ? "Next in the queue"
        : `Position ${job.queue.position + 1} of ${job.queue.length} in the queue`;
    const why =
      job.queue.waitingFor === "gpu_memory"
        ? `waiting for ${bytes(job.queue.needBytes)} of memory, ${bytes(job.queue.freeBytes)} are free`
        : WAITS[job.queue.waitingFor];
    return why ? `${place}, ${why}` : place;
  }
  if (job.status !== "processing") return STATES[job.status];
  return job.stage === "denoising" ? `Step ${job.step} of ${job.totalSteps}` : STAGES[job.stage];
}

export function chip(status) {
  return h("span", { class: `chip ${status}` }, STATES[status]);
}

/** An element that shows one output of a finished job. */
function media(job, output, index) {
  const label = job.prompt ?? `Output ${index + 1}`;
  if (output.mimeType === "application/zip")
    return h("div", { class: "nothing" }, icon("video"), `Frames as a zip, ${bytes(output.bytes)}`);
  if (output.mimeType.startsWith("video/")) {
    return h("video", {
      src: output.url,
      controls: true,
      loop: true,
      muted: true,
      autoplay: true,
      playsinline: true,
      "aria-label": label,
      width: output.width,
      height: output.height,
    });
  }
  return h("img", { src: output.url, alt: label, width: output.width, height: output.height, decoding: "async" });
}

/** An output, compared with the picture it was made from. Of several, each has its own buttons. */
function outputFigure(job, output, index, on) {
  const { inputs, fit } = job.params;
  const figure = ratio(h("figure", { class: "frame-of" }, media(job, output, index)), output);
  const single = job.outputs.length === 1;
  if (inputs?.image?.fileId && output.mimeType.startsWith("image/")) comparable(figure, inputs.image, fit, !single);
  if (single) return figure;
  return h("div", { class: "stack tight" }, figure, h("div", { class: "row" }, outputActions(job, index, on, true)));
}

/** An element that shows a job, and `update(job, preview)`.
 *
 * `on`: {models, leave(), changed(job), gone(job)}: a promise of all models, and what happens before another view is
 * shown, after a change and after the deletion.
 */
export function jobStage(job, on) {
  const box = h("article", { class: "stage", "aria-label": "Result" });
  let shown = null; // the job and its final status, as last drawn
  let live = null; // updates the drawn progress

  function update(next, preview) {
    // Redraws only when the job ends, so that a click cannot hit a button that is just being replaced.
    const key = `${next.jobId} ${ended(next) ? next.status : "under way"}`;
    if (shown === key && live) live(next, preview);
    else if (shown !== key) {
      if (shown?.startsWith(next.jobId) && ended(next))
        announce(next.status === "failed" ? `Failed: ${next.error?.message}` : STATES[next.status]);
      shown = key;
      draw(next);
    }
  }

  function draw(next) {
    live = null;
    const frame = h("div", { class: "frames" });
    if (next.status === "completed" && next.outputs.length) {
      frame.append(
        ...next.outputs.map((output, index) => outputFigure(next, output, index, on)),
      );
      frame.classList.toggle("many", next.outputs.length > 1);
    } else if (ended(next)) {
      frame.append(ratio(h("div", { class: "frame-of" }, h("div", { class: "nothing" }, ending(next))), next.params));
    } else {
      const still = h("img", { class: "preview", alt: "", hidden: true });
      const head = h("b", {});
      const eta = h("span", { class: "soft" });
      const meter = h("div", { class: "meter" }, h("span"));
      const bar = h(
        "div",
        { role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0, "aria-valuemax": 100 },
        meter,
      );
      frame.append(
        ratio(
          h(
            "div",
            { class: "frame-of" },
            still,
            h("div", { class: "going" }, h("div", { class: "row" }, head, eta), bar),
          ),
          next.params,
        ),
      );
      live = (now, preview) => {
        say(head, progressText(now));
        say(eta, left(now.etaSeconds));
        meter.firstChild.style.width = `${now.progress * 100}%`;
        bar.setAttribute("aria-valuenow", Math.round(now.progress * 100));
        bar.setAttribute("aria-valuetext", head.textContent);
        if (preview) {
          still.src = preview;
          still.hidden = false;
        }
      };
      live(next);
    }
    box.replaceChildren(
      frame,
      h(
        "div",
        { class: "about" },
        h(
          "p",
          { class: "prompt" },
          next.prompt ?? h("span", { class: "soft" }, "The prompt was deleted with the files."),
        ),
        next.warnings.map((text) => h("p", { class: "note warn" }, text)),
        next.status === "failed" ? h("p", { class: "note bad" }, next.error?.message ?? "The job failed.") : null,
        facts(next),
        jobActions(next, on),
      ),
    );
  }

  update(job);
  return { element: box, update };
}

function ending(job) {
  if (job.status === "failed") return "It failed";
  if (job.status === "canceled") return "Canceled";
  return "The files have expired";
}

/** Reserves the space of the output before it is loaded, so that the layout does not move. */
function ratio(element, { width, height }) {
  element.style.setProperty("--ratio", width / height || 1);
  return element;
}

function facts(job) {
  const { params, metrics } = job;
  const entries = [
    ["Model", job.model],
    ["Size", `${params.width} × ${params.height}`],
    ["Length", params.durationSeconds && `${seconds(params.durationSeconds)}, ${count(params.numFrames, "frame")}`],
    ["Made from", madeFrom(params.inputs)],
    ["Strength", params.strength],
    ["Upscaled", params.upscale && `to ${params.upscale.width} × ${params.upscale.height}, ${params.upscale.model}`],
    ["Steps", params.steps],
    ["Guidance", params.guidanceScale],
    ["Speed", params.speed !== "exact" && params.speed],
    ["Clip skip", params.clipSkip],
    ["LoRAs", params.loras?.map(({ name, weight }) => `${name} ${weight}`).join(", ")],
    ["Seed", job.outputs.length === 1 ? job.outputs[0].seed : params.seed],
    ["Run time", metrics?.runMs && seconds(metrics.runMs / 1000)],
    ["Batched with", metrics?.batchPeak > 1 && count(metrics.batchPeak - 1, "other output")],
    ["Created", when(job.createdAt)],
  ];
  return h(
    "dl",
    { class: "facts" },
    entries
      .filter(([, value]) => value !== null && value !== undefined && value !== false && value !== "")
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

const INPUTS = {
  image: "a picture",
  mask: "a mask",
  last_image: "a last frame",
  video: "a clip",
  control: "a map",
  ipAdapter: "a picture as a prompt",
};

function madeFrom(inputs) {
  const names = Object.keys(INPUTS).filter((name) => inputs?.[name]);
  const words = names.map((name) => INPUTS[name]);
  return [...words, inputs?.images && count(inputs.images.length, "reference")].filter(Boolean).join(", ");
}

/** A thumbnail that opens a job. */
export function thumb(job, onclick, current = false) {
  const output = job.outputs[0];
  let inside;
  if (output && output.mimeType.startsWith("image/"))
    inside = h("img", { src: output.url, alt: "", loading: "lazy", decoding: "async" });
  else if (output && output.mimeType.startsWith("video/"))
    inside = h("video", {
      src: output.url,
      preload: "metadata",
      muted: true,
      loop: true,
      playsinline: true,
      tabindex: "-1",
      "aria-hidden": "true",
    });
  else inside = h("span", { class: "nothing" }, ended(job) ? STATES[job.status] : progressText(job).split(",")[0]);
  const label = `${job.prompt ?? "Prompt deleted"}, ${job.type}, ${STATES[job.status].toLowerCase()}`;
  const hover =
    inside.tagName === "VIDEO"
      ? { onmouseenter: () => inside.play().catch(() => {}), onmouseleave: () => inside.pause() }
      : {};
  return h(
    "button",
    {
      class: "thumb",
      type: "button",
      title: job.prompt ?? "",
      "aria-label": label,
      "aria-current": current ? "true" : null,
      onclick,
      ...hover,
    },
    inside,
    job.type === "video" && output ? h("span", { class: "mark" }, icon("video")) : null,
    ended(job) ? null : h("span", { class: "meter" }, bar(job.progress)),
  );
}

function bar(progress) {
  const inner = h("span");
  inner.style.width = `${progress * 100}%`;
  return inner;
}
