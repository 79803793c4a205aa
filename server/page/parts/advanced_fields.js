/** The advanced fields of the Create form. */

import { field, h, options } from "../dom.js";
import { draft } from "../draft.js";
import { icon } from "../icons.js";
import { loraRows } from "./loras.js";

const SPEEDS = [
  ["", "exact (default)"],
  ["balanced", "balanced: about half the time"],
  ["fast", "fast: about a third"],
];
const FITS = [
  ["", "crop (default)"],
  ["pad", "pad"],
  ["stretch", "stretch"],
];
const FORMATS = { image: ["png", "webp", "jpeg"], video: ["mp4", "webm", "gif", "frames"] };

/** The fields that `model` supports. They edit `draft.advanced`.
 *
 * `loras`: names of the LoRAs on the server. `upscalers`: models that can enlarge the result. `isFitted`: whether
 * there is a picture that may have another shape than the result.
 */
export function advancedFields(model, loras, upscalers, isFitted) {
  const { defaults = {}, limits = {} } = model ?? {};
  const values = draft.advanced;
  const select = (name, entries) => {
    const control = h("select", {
      class: "input",
      name,
      onchange: () => {
        values[name] = control.value;
      },
    });
    return options(control, entries, values[name] ?? "");
  };
  const format = select("output_format", [
    ["", `${FORMATS[draft.type][0]} (default)`],
    ...FORMATS[draft.type].slice(1).map((name) => [name, name]),
  ]);
  const negative = h("textarea", {
    class: "input short",
    name: "negative_prompt",
    rows: 2,
    maxlength: 4000,
    value: values.negative_prompt ?? "",
    placeholder: defaults.negativePrompt || "What not to show",
    oninput: () => {
      values.negative_prompt = negative.value;
    },
  });
  const exact = h("input", {
    type: "checkbox",
    name: "deterministic",
    checked: values.deterministic ?? false,
    onchange: () => {
      values.deterministic = exact.checked;
    },
  });
  const multiple = limits.sizeMultiple ?? 8;
  const { schedulers = [], maxClipSkip = 0, takesLoras = false, speeds = [] } = model ?? {};
  if (model) dropUnsupported(values, schedulers, maxClipSkip, takesLoras, speeds);
  const scheduler = select("scheduler", [
    ["", `${plain(defaults.scheduler ?? schedulers[0] ?? "")} (default)`],
    ...schedulers.map((name) => [name, plain(name)]),
  ]);
  const speed = select("speed", SPEEDS);
  if (model && !upscalers.some(({ name }) => name === values.upscale)) delete values.upscale;
  const upscale = select("upscale", [
    ["", "no"],
    ...upscalers.map(({ name, adapter }) => [name, `${name} · ${adapter.scale}×`]),
  ]);
  const side = (label, name) =>
    numberField(label, name, { min: multiple, step: multiple, placeholder: "automatic" }, values);
  const sides = h("div", { class: "fields wide" }, side("Width", "width"), side("Height", "height"));
  if (model?.adapter) return [field("File format", format), sides]; // an upscaler has no steps
  return [
    seedField(values),
    numberField("Steps", "steps", { min: 1, max: limits.maxSteps, placeholder: defaults.steps ?? "50" }, values),
    numberField(
      "Guidance",
      "guidance_scale",
      { min: 0, max: 100, step: "any", placeholder: defaults.guidanceScale ?? "model's default" },
      values,
    ),
    ...(schedulers.length > 1 ? [field("Noise scheduler", scheduler)] : []),
    ...(maxClipSkip
      ? [
          numberField(
            "Clip skip",
            "clip_skip",
            { min: 0, max: maxClipSkip, placeholder: defaults.clipSkip ?? 0 },
            values,
          ),
        ]
      : []),
    ...(speeds.length > 1 ? [field("Speed", speed, "Balanced and fast predict most later steps.")] : []),
    ...(isFitted ? [field("Fit of the picture", select("fit", FITS))] : []),
    ...(upscalers.length ? [field("Upscale", upscale)] : []),
    field("File format", format),
    sides,
    ...(draft.type === "video"
      ? [numberField("Frames", "num_frames", { min: 1, placeholder: "from seconds" }, values)]
      : []),
    field("Negative prompt", negative, null, { class: "wide" }),
    ...(takesLoras && loras.length ? [loraRows(values, loras)] : []),
    h(
      "label",
      { class: "check wide" },
      exact,
      h("span", {}, "Deterministic: identical bits each time ", h("span", { class: "soft" }, "(never batched)")),
    ),
  ];
}

/** A number with a label that edits `target[name]`. */
export function numberField(text, name, attributes, target) {
  const control = h("input", {
    class: "input",
    type: "number",
    inputmode: "decimal",
    name,
    value: target[name] ?? "",
    ...attributes,
    oninput: () => {
      target[name] = control.value;
    },
  });
  return field(text, control);
}

function seedField(values) {
  const seed = numberField("Seed", "seed", { min: 0, step: 1, placeholder: "random" }, values);
  const control = seed.querySelector("input");
  const random = h(
    "button",
    {
      class: "button plain little",
      type: "button",
      title: "Random seed",
      "aria-label": "Random seed",
      onclick: () => {
        values.seed = control.value = "";
      },
    },
    icon("dice"),
  );
  const row = h("div", { class: "beside" });
  control.before(row);
  row.append(control, random);
  return seed;
}

/** Removes values that were set for another model and that this model does not support. */
function dropUnsupported(values, schedulers, maxClipSkip, takesLoras, speeds) {
  if (!speeds.includes(values.speed)) delete values.speed;
  if (!schedulers.includes(values.scheduler)) delete values.scheduler;
  if (Number(values.clip_skip) > maxClipSkip) delete values.clip_skip;
  if (!takesLoras) delete values.loras;
}

/** "EulerAncestralDiscreteScheduler" → "Euler Ancestral Discrete" */
const plain = (name) => name.replace(/Scheduler$/, "").replace(/([a-z])([A-Z])/g, "$1 $2");
