/** Fills the Create form from a result: to make it again, to edit or animate it, or to use it as a reference. */

import { toast } from "./announce.js";
import { draft, noPictures } from "./draft.js";
import { inputsOf, modelsFor, modelsTaking } from "./model_inputs.js";
import { fromOutput } from "./uploads.js";

const CLIPS = ["video/mp4", "video/webm"];
const PICTURES = ["image/png", "image/jpeg", "image/webp"];

/** What can be done with an output: [name, label, icon, action]. `models`: all that the server has. */
export function nextSteps(job, output, models) {
  const can = (name, type) => editors(name, type, models).length > 0;
  const steps = [];
  if (PICTURES.includes(output.mimeType)) {
    if (can("image", "image"))
      steps.push(["Edit this", "pen", () => begin(job, "image", "image", output, models)]);
    if (can("image", "video"))
      steps.push(["Animate this", "video", () => begin(job, "video", "image", output, models)]);
    if (can("images", "image")) steps.push(["Use as reference", "plus", () => refer(job, output, models)]);
  } else if (CLIPS.includes(output.mimeType) && can("video", "video")) {
    steps.push(["Edit this", "pen", () => begin(job, "video", "video", output, models)]);
  }
  return steps;
}

/** The models that make something new of an input, and not only a larger one. */
const editors = (name, type, models) => modelsTaking([name], type, models).filter((model) => !model.adapter);

/** Starts a new draft from one output. */
function begin(job, type, name, output, models) {
  Object.assign(draft, {
    type,
    prompt: job.prompt ?? "",
    model: modelFor(job, type, name, models),
    n: 1,
    duration: "",
    advanced: {},
    ...noPictures(),
  });
  draft.pictures[name] = [fromOutput(job, output)];
  show();
}

/** The job's own model if it can, else the default one if it can, else the first that can. */
function modelFor(job, type, name, models) {
  const able = editors(name, type, models);
  const chosen = able.find((model) => model.name === job.model) ?? able.find((model) => model.default) ?? able[0];
  return chosen?.name ?? "";
}

/** Adds an output to the references of the draft. */
function refer(job, output, models) {
  draft.type = "image";
  const isChosen = (model) => (draft.model ? model.name === draft.model : model.default);
  const chosen = modelsFor("image", models).find(isChosen);
  if (!inputsOf(chosen, "image").includes("images")) draft.model = modelFor(job, "image", "images", models);
  draft.pictures.images = [...draft.pictures.images, fromOutput(job, output)];
  show();
}

/** Fills the form with the values of a job; each output of a job has its own seed. */
export function reuse(job, models, index = 0) {
  const { params } = job;
  const model = models.find(({ name }) => name === job.model);
  const aspect = params.inputs ? undefined : ratioOf(params, model);
  Object.assign(draft, {
    type: job.type,
    prompt: job.prompt ?? "",
    model: job.model,
    aspect: aspect ?? (job.type === "image" ? "1:1" : "16:9"),
    n: 1,
    duration: "",
    open: true,
    advanced: {
      seed: job.outputs[index]?.seed ?? params.seed,
      steps: model?.adapter ? "" : (params.steps ?? ""), // of an upscaler, the number of tiles
      guidance_scale: params.guidanceScale ?? "",
      negative_prompt: params.negativePrompt ?? "",
      width: aspect ? "" : params.width,
      height: aspect ? "" : params.height,
      num_frames: params.numFrames ?? "",
      output_format: params.outputFormat ?? "",
      deterministic: params.deterministic ?? false,
      speed: params.speed === "exact" ? "" : (params.speed ?? ""),
      scheduler: params.scheduler && params.scheduler !== defaultScheduler(model) ? params.scheduler : "",
      clip_skip: params.clipSkip ?? "",
      loras: (params.loras ?? []).map((lora) => ({ ...lora })),
      fit: params.fit === "crop" ? "" : (params.fit ?? ""),
      upscale: params.upscale?.model ?? "",
    },
    ...noPictures(),
    strength: params.strength ?? "",
  });
  takeInputs(params.inputs ?? {}, job);
  show();
}

/** The pictures of a job, as far as they were named by an id. */
function takeInputs(inputs, job) {
  let lost = false;
  const take = (name, files) => {
    draft.pictures[name] = files
      .filter(({ fileId }) => fileId)
      .map(({ fileId, width, height }) => ({ id: fileId, name: "From an earlier job", width, height }));
    lost ||= draft.pictures[name].length < files.length;
  };
  for (const name of ["image", "mask", "last_image", "video"]) if (inputs[name]) take(name, [inputs[name]]);
  take("images", inputs.images ?? []);
  const [control, ...others] = inputs.control ?? [];
  if (control) {
    take("control", [control.image]);
    draft.control = { by: control.model ? `${control.model}/` : "", strength: control.strength };
  }
  if (lost || others.length || inputs.ipAdapter)
    toast("Some pictures of this job are not in the form: they came with its request, or the form has no place.");
}

/** Opens the form with the draft as it now is. */
function show() {
  if (location.hash === "#/create") dispatchEvent(new HashChangeEvent("hashchange"));
  else location.hash = "#/create";
}

const ratioOf = ({ width, height }, model) =>
  Object.entries(model?.sizes ?? {}).find(([, [w, h]]) => w === width && h === height)?.[0];

const defaultScheduler = (model) => model?.defaults?.scheduler ?? model?.schedulers?.[0];
