/** The Queue view: device memory by holder, running jobs, and waiting jobs with the reason. */

import { announce, complain } from "../announce.js";
import { get, remove } from "../api.js";
import { h } from "../dom.js";
import { every } from "../follow.js";
import { bytes, count, left, seconds } from "../format.js";
import { icon } from "../icons.js";
import { memory } from "../parts/memory.js";

const EVERY_MS = 1000;
const WAITS = { turn: "its turn", gpu_memory: "memory", model_load: "its model to load" };
const ALL_WAIT = { turn: "their turn", gpu_memory: "memory", model_load: "their model to load" };
const MERGING = { on: "on", off: "off", unproven: "not proven yet" };
const STAGES = {
  waiting: "waiting",
  loading_model: "loading",
  encoding: "encoding the prompt",
  denoising: "denoising",
  decoding: "decoding",
  saving: "saving",
  done: "done",
};

export default function queue({ signal }) {
  const devices = h("div", { class: "stack" });
  const lanes = section("In memory");
  const running = section("Running");
  const waiting = section("Waiting");
  let announced = null;

  async function refresh() {
    const [gpu, now] = await Promise.all([get("/api/gpu", { signal }), get("/api/queue", { signal })]);
    keepingFocus(() => {
      devices.replaceChildren(
        ...(gpu.devices.length
          ? gpu.devices.map(memory)
          : [h("div", { class: "card soft" }, "The device has not reported yet.")]),
      );
      lanes.fill(now.lanes.length, drawLanes(now.lanes), "No model is in memory. A job loads the model it needs.");
      running.fill(now.running.length, drawRunning(now.running), "Nothing runs.");
      waiting.fill(now.length, drawWaiting(now), "Nothing waits: the next job starts at once.");
    });
    const text = `${count(now.running.length, "job")} running, ${now.length} waiting`;
    if (announced !== null && announced !== text) announce(text);
    announced = text;
  }

  /** Redraws without losing the keyboard focus. */
  function keepingFocus(draw) {
    const job = document.activeElement?.dataset?.cancel;
    draw();
    if (job) document.querySelector(`[data-cancel="${job}"]`)?.focus();
  }

  every(EVERY_MS, signal, refresh, complain);
  return [
    h("header", {}, h("div", {}, h("h1", { tabindex: "-1" }, "Queue and memory"))),
    h(
      "div",
      { class: "stack" },
      devices,
      lanes.element,
      h("div", { class: "halves" }, running.element, waiting.element),
    ),
  ];
}

function section(title) {
  const number = h("span", { class: "soft" });
  const body = h("div", {});
  return {
    element: h("section", { class: "card" }, h("h2", {}, title, " ", number), body),
    fill(n, content, empty) {
      number.textContent = n ? String(n) : "";
      body.replaceChildren(n ? content : h("p", { class: "soft" }, empty));
    },
  };
}

function drawLanes(lanes) {
  return h(
    "div",
    { class: "table", tabindex: "0", role: "region", "aria-label": "In memory" },
    h(
      "table",
      { class: "folds" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["Model", "State", "Jobs"].map((name) => h("th", { scope: "col" }, name)),
          h("th", { scope: "col", class: "numbers" }, "Step time"),
          h("th", { scope: "col" }, "Batching"),
          h("th", { scope: "col", class: "numbers" }, "Memory"),
        ),
      ),
      h(
        "tbody",
        {},
        lanes.map((lane) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, lane.model),
            h(
              "td",
              { "data-label": "State" },
              h("span", { class: `chip ${lane.state}` }, lane.state === "resident" ? "in memory" : lane.state),
            ),
            h("td", { "data-label": "Jobs" }, lane.running || "idle"),
            h(
              "td",
              { class: "numbers", "data-label": "Step time" },
              lane.stepSeconds === null ? "–" : seconds(lane.stepSeconds),
            ),
            h("td", { "data-label": "Batching" }, lane.type === "chat" ? "on" : MERGING[lane.merging]),
            h("td", { class: "numbers", "data-label": "Memory" }, bytes(lane.bytes)),
          ),
        ),
      ),
    ),
  );
}

function name(job) {
  const what = { image: "Image", video: "Video", chat: "Chat message", embedding: "Embedding" }[job.type] ?? "Job";
  return h(
    "div",
    {},
    h("b", {}, what),
    job.model ? h("span", { class: "soft" }, ` · ${job.model}`) : null,
    job.mine ? h("span", { class: "chip" }, "yours") : null,
  );
}

function cancel(job) {
  if (!job.mine) return null;
  return h(
    "button",
    {
      class: "button plain little risky",
      type: "button",
      "data-cancel": job.jobId,
      onclick: () => remove(`/api/jobs/${job.jobId}`).then(() => announce("Canceled"), complain),
    },
    icon("close"),
    "Cancel",
  );
}

function drawRunning(jobs) {
  return h(
    "ul",
    { class: "jobs" },
    jobs.map((job) => {
      const bar = h("span");
      bar.style.width = `${(job.progress ?? 0) * 100}%`;
      const where =
        job.totalSteps && job.stage === "denoising"
          ? `step ${job.step} of ${job.totalSteps}`
          : (STAGES[job.stage] ?? "");
      return h(
        "li",
        {},
        h("div", { class: "row" }, h("div", { class: "grow row" }, name(job)), cancel(job)),
        job.progress === null ? null : h("div", { class: "meter" }, bar),
        h("p", { class: "soft small" }, [where, left(job.etaSeconds)].filter(Boolean).join(", ")),
      );
    }),
  );
}

function drawWaiting({ waiting, length, reasons }) {
  const why = Object.entries(reasons)
    .map(([reason, n]) => `${n} for ${(n === 1 ? WAITS : ALL_WAIT)[reason] ?? reason}`)
    .join(", ");
  return h(
    "div",
    { class: "stack" },
    why ? h("p", { class: "soft" }, why) : null,
    h(
      "ol",
      { class: "jobs" },
      waiting
        .slice(0, 30)
        .map((job) =>
          h(
            "li",
            {},
            h(
              "div",
              { class: "row" },
              h("span", { class: "place" }, job.position + 1),
              h("div", { class: "grow row" }, name(job)),
              cancel(job),
            ),
            h(
              "p",
              { class: "soft small" },
              [
                `waits for ${WAITS[job.waitingFor] ?? "its turn"}`,
                job.waitingFor === "gpu_memory" && `needs ${bytes(job.needBytes)}`,
                left(job.etaSeconds),
              ]
                .filter(Boolean)
                .join(", "),
            ),
          ),
        ),
    ),
    length > 30
      ? h("p", { class: "soft" }, `and ${(length - Math.min(30, waiting.length)).toLocaleString()} more`)
      : null,
  );
}
