/** The state of the Create form. It survives a change of the view, and can be filled from an earlier job. */

const TEXTS = ["negative_prompt", "output_format", "scheduler", "speed"];

export const IDEAS = {
  image: [
    "A futuristic city at night",
    "A red circle at the left on a blue background",
    "Mountains at sunrise",
    "A forest in the rain",
  ],
  video: ["Ocean waves at sunset", "A car passes a city at night", "A green star moves to the right"],
};

export const draft = {
  type: "image",
  prompt: "",
  model: "",
  aspect: "",
  n: 1,
  duration: "",
  advanced: {},
  open: false,
};

/** Fills the form with the values of a job; each output of a job has its own seed. */
export function reuse(job, models, index = 0) {
  const { params } = job;
  const model = models.find(({ name }) => name === job.model);
  const aspect = Object.entries(model?.sizes ?? {}).find(
    ([, [w, h]]) => w === params.width && h === params.height,
  )?.[0];
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
      steps: params.steps ?? "",
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
    },
  });
  location.hash = "#/create";
}

const defaultScheduler = (model) => model?.defaults?.scheduler ?? model?.schedulers?.[0];

/** The body of POST /api/generate: the filled fields, and a request for previews. */
export function bodyOf(draft) {
  const body = { prompt: draft.prompt, type: draft.type, preview: true };
  const { loras = [], ...advanced } = draft.advanced;
  if (draft.model) body.model = draft.model;
  if (draft.aspect && !advanced.width && !advanced.height) body.aspect_ratio = draft.aspect;
  if (draft.type === "image" && Number(draft.n) > 1) body.n = Number(draft.n);
  if (draft.type === "video" && draft.duration && !advanced.num_frames) body.duration = Number(draft.duration);
  if (draft.type === "image") delete advanced.num_frames;
  if (loras.length)
    body.loras = loras.map(({ name, weight }) => ({ name, weight: weight === "" ? 1 : Number(weight) }));
  for (const [name, value] of Object.entries(advanced)) {
    if (value === "" || value === false || value === null || value === undefined) continue;
    body[name] = TEXTS.includes(name) || value === true ? value : Number(value);
  }
  return body;
}
