/** Create: say what you want, watch it being made, use it again. */

import { complain } from "../announce.js";
import { get, post } from "../api.js";
import { choice, field, h, options, say } from "../dom.js";
import { bodyOf, draft, reuse } from "../draft.js";
import { ended, follow, outdated } from "../follow.js";
import { count } from "../format.js";
import { icon, shape } from "../icons.js";
import { jobStage, progressText, thumb } from "../parts/job.js";
import { loraRows } from "../parts/loras.js";
import { session } from "../session.js";

const RATIOS = ["1:1", "16:9", "9:16"];
const FORMATS = { image: ["png", "webp", "jpeg"], video: ["mp4", "webm", "gif", "frames"] };
const IDEAS = {
  image: ["A futuristic city at night", "A red circle at the left on a blue background", "Mountains at sunrise", "A forest in the rain"],
  video: ["Ocean waves at sunset", "A car passes a city at night", "A green star moves to the right"],
};
const RECENT = 12;

export default function create({ signal }) {
  let models = [];
  let loras = []; // their names
  const form = makeForm(() => models, () => loras, submit);
  const results = makeResults(() => models, signal);

  async function submit() {
    form.busy(true);
    try {
      const { jobId } = await post("/api/generate", bodyOf(draft), { headers: { "Idempotency-Key": crypto.randomUUID?.() ?? `${Math.random()}` } });
      form.problem(null);
      await results.follow(jobId);
      session.me = await get("/api/me");
      form.allowance();
    } catch (error) {
      form.problem(error);
    } finally {
      form.busy(false);
    }
  }

  Promise.all([get("/api/models", { signal }), get("/api/loras", { signal })]).then((replies) => { [{ models }, { loras }] = replies; form.draw(); }, complain);
  get("/api/me", { signal }).then((me) => { session.me = me; form.allowance(); }, complain);
  results.load().catch(complain);
  return [
    h("header", {}, h("div", {}, h("h1", { tabindex: "-1" }, "Create"))),
    h("div", { class: "studio" }, form.element, results.element),
  ];
}

function makeForm(models, loras, submit) {
  const prompt = h("textarea", { class: "input", name: "prompt", rows: 4, maxlength: 4000, required: true, value: draft.prompt, placeholder: IDEAS[draft.type][0], oninput: () => { draft.prompt = prompt.value; }, onkeydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); element.requestSubmit(); } } });
  const middle = h("div", { class: "stack" });
  const advanced = h("div", { class: "fields" });
  const details = h("details", { open: draft.open, ontoggle: () => { draft.open = details.open; } }, h("summary", {}, "Advanced"), advanced);
  const problem = h("p", { class: "note bad", role: "alert", hidden: true });
  const label = h("span", {}, "Create");
  const button = h("button", { class: "button main-one", type: "submit" }, icon("create"), label);
  const allowanceLine = h("p", { class: "soft small allowance" });
  const element = h("form", { class: "card stack form", novalidate: true, onsubmit: (event) => { event.preventDefault(); if (!button.disabled) send(); } },
    choice("type", "What", [["image", "Image", icon("image")], ["video", "Video", icon("video")]], draft.type, (value) => {
      Object.assign(draft, { type: value, model: "", aspect: "" });
      for (const name of ["output_format", "num_frames", "steps", "guidance_scale", "width", "height", "scheduler", "clip_skip", "loras"]) delete draft.advanced[name];
      draw();
    }),
    field("Prompt", prompt),
    middle, details, problem,
    h("div", { class: "send" }, button, allowanceLine),
  );

  function send() {
    if (prompt.value.trim()) submit();
    else show("Describe what you want to see.", prompt);
  }

  const ofType = () => models().filter(({ type }) => type === draft.type);
  const chosen = () => ofType().find(({ name }) => name === draft.model) ?? ofType().find((model) => model.default) ?? ofType()[0];

  function draw() {
    const model = chosen();
    prompt.placeholder = IDEAS[draft.type][0];
    say(label, draft.type === "image" ? "Create image" : "Create video");
    draft.aspect ||= draft.type === "image" ? "1:1" : "16:9";
    const select = h("select", { class: "input", name: "model", onchange: () => { draft.model = select.value; draw(); } });
    options(select, ofType().map(({ name, default: first, state }) => [name, `${name}${first ? " (default)" : ""}${state === "resident" ? " · in memory" : ""}`]), model?.name);
    select.disabled = !model;
    const size = model?.sizes?.[draft.aspect];
    middle.replaceChildren(
      choice("aspect_ratio", `Shape${size ? ` · ${size[0]} × ${size[1]}` : ""}`, RATIOS.map((ratio) => [ratio, ratio, shape(ratio)]), draft.aspect, (value) => {
        draft.aspect = value;
        delete draft.advanced.width;
        delete draft.advanced.height;
        draw();
        middle.querySelector(`[value="${value}"]`).focus();
      }),
      h("div", { class: "fields" },
        field("Model", select, null, { class: "wide" }),
        draft.type === "image"
          ? input("Images", "n", { min: 1, max: 8 }, draft)
          : input("Seconds", "duration", { min: 1, max: model?.limits?.maxDurationS ?? 60, placeholder: lengthOf(model) }, draft)),
    );
    if (!model && models().length) middle.append(h("p", { class: "note warn" }, `There is no ${draft.type} model here. Add one under Models.`));
    drawAdvanced(model);
    allowance();
  }

  function drawAdvanced(model) {
    const { defaults = {}, limits = {} } = model ?? {};
    const said = draft.advanced;
    const format = options(h("select", { class: "input", name: "output_format", onchange: () => { said.output_format = format.value; } }), [["", `${FORMATS[draft.type][0]} (default)`], ...FORMATS[draft.type].slice(1).map((name) => [name, name])], said.output_format ?? "");
    const negative = h("textarea", { class: "input short", name: "negative_prompt", rows: 2, maxlength: 4000, value: said.negative_prompt ?? "", placeholder: defaults.negativePrompt || "What should not be seen", oninput: () => { said.negative_prompt = negative.value; } });
    const exact = h("input", { type: "checkbox", name: "deterministic", checked: said.deterministic ?? false, onchange: () => { said.deterministic = exact.checked; } });
    const multiple = limits.sizeMultiple ?? 8;
    const { schedulers = [], maxClipSkip = 0, takesLoras = false } = model ?? {};
    if (model) forgetOthers(said, schedulers, maxClipSkip, takesLoras);
    const scheduler = options(h("select", { class: "input", name: "scheduler", onchange: () => { said.scheduler = scheduler.value; } }), [["", `${plain(defaults.scheduler ?? schedulers[0] ?? "")} (default)`], ...schedulers.map((name) => [name, plain(name)])], said.scheduler ?? "");
    advanced.replaceChildren(
      seedField(said),
      input("Steps", "steps", { min: 1, max: limits.maxSteps, placeholder: defaults.steps ?? "50" }, said),
      input("Guidance", "guidance_scale", { min: 0, max: 100, step: "any", placeholder: defaults.guidanceScale ?? "the model's" }, said),
      ...(schedulers.length > 1 ? [field("Noise scheduler", scheduler)] : []),
      ...(maxClipSkip ? [input("Clip skip", "clip_skip", { min: 0, max: maxClipSkip, placeholder: defaults.clipSkip ?? 0 }, said)] : []),
      field("File", format),
      input("Width", "width", { min: multiple, step: multiple, placeholder: "by shape" }, said),
      input("Height", "height", { min: multiple, step: multiple, placeholder: "by shape" }, said),
      ...(draft.type === "video" ? [input("Frames", "num_frames", { min: 1, placeholder: "by seconds" }, said)] : []),
      field("Leave out", negative, null, { class: "wide" }),
      ...(takesLoras && loras().length ? [loraRows(said, loras())] : []),
      h("label", { class: "check wide" }, exact, h("span", {}, "Bit for bit the same each time ", h("span", { class: "soft" }, "(never batched)"))),
    );
  }

  function input(text, name, attributes, target) {
    const control = h("input", { class: "input", type: "number", inputmode: "decimal", name, value: target[name] ?? "", ...attributes, oninput: () => { target[name] = control.value; } });
    return field(text, control);
  }

  function seedField(said) {
    const made = input("Seed", "seed", { min: 0, step: 1, placeholder: "random" }, said);
    const control = made.querySelector("input");
    const roll = h("button", { class: "button plain little", type: "button", title: "Random again", "aria-label": "Random seed", onclick: () => { said.seed = control.value = ""; } }, icon("dice"));
    const beside = h("div", { class: "beside" });
    control.before(beside);
    beside.append(control, roll);
    return made;
  }

  function show(text, control) {
    problem.textContent = text;
    problem.hidden = false;
    control?.setAttribute("aria-invalid", "true");
    control?.focus();
  }

  function allowance() {
    const { used, limit } = session.me?.usage?.[draft.type === "image" ? "images" : "videos"] ?? {};
    say(allowanceLine, typeof limit === "number" ? `${Math.max(0, limit - used)} of ${count(limit, draft.type)} left today` : "");
  }

  draw();
  return {
    element,
    draw,
    allowance,
    busy: (now) => { button.disabled = now; },
    problem(error) {
      for (const control of element.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
      problem.hidden = true;
      if (!error) return;
      const name = /^[a-z_]+/.exec(error.message)?.[0]; // the server names the field first
      const control = error.code === 400 && name ? element.querySelector(`[name="${name}"]`) : null;
      if (control?.closest("details")) details.open = true;
      show(error.message, control);
    },
  };
}

/** What was said of another model and means nothing to this one. */
function forgetOthers(said, schedulers, maxClipSkip, takesLoras) {
  if (!schedulers.includes(said.scheduler)) delete said.scheduler;
  if (Number(said.clip_skip) > maxClipSkip) delete said.clip_skip;
  if (!takesLoras) delete said.loras;
}

/** "EulerAncestralDiscreteScheduler" as people read it. */
const plain = (name) => name.replace(/Scheduler$/, "").replace(/([a-z])([A-Z])/g, "$1 $2");

function lengthOf(model) {
  const { numFrames, fps } = model?.defaults ?? {};
  return numFrames && fps ? String(Math.round(numFrames / fps)) : "";
}

function makeResults(models, signal) {
  const jobs = new Map(); // newest first when shown
  const place = h("div", {});
  const strip = h("div", { class: "strip" });
  const element = h("section", { class: "results", "aria-label": "Results" }, place, strip);
  let current = null;
  let stage = null;
  const on = {
    reuse: (job, index) => { reuse(job, models(), index); dispatchEvent(new HashChangeEvent("hashchange")); },
    changed: take,
    gone: (job) => { jobs.delete(job.jobId); if (current === job.jobId) open(order()[0]?.jobId ?? null); else drawStrip(); },
  };
  const order = () => [...jobs.values()].sort((a, b) => b.createdAt.localeCompare(a.createdAt) || b.jobId.localeCompare(a.jobId));

  function open(jobId) {
    current = jobId;
    if (jobId === null) return empty();
    stage = jobStage(jobs.get(jobId), on);
    place.replaceChildren(stage.element);
    drawStrip();
  }

  function empty() {
    stage = null;
    const ideas = IDEAS[draft.type].map((text) => h("button", { class: "button little", type: "button", onclick: () => { draft.prompt = text; const box = document.querySelector("textarea[name=prompt]"); box.value = text; box.focus(); } }, text));
    place.replaceChildren(h("div", { class: "empty" }, icon("create"), h("h2", {}, "Nothing made yet"), h("p", {}, "Describe a picture or a clip and it appears here, step by step. Or start from one of these:"), h("div", { class: "row" }, ideas)));
    strip.replaceChildren();
    strip.hidden = true;
  }

  function drawStrip() {
    const shown = order().slice(0, RECENT);
    strip.hidden = shown.length < 2;
    const focused = strip.contains(document.activeElement) ? document.activeElement.dataset.job : null;
    strip.replaceChildren(...shown.map((job) => { const tile = thumb(job, () => open(job.jobId), job.jobId === current); tile.dataset.job = job.jobId; return tile; }));
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
    follow(jobId, take, signal).catch((error) => { if (error.code === 404) { jobs.delete(jobId); drawStrip(); } else complain(error); });
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
