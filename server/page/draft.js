/** What the Create form holds, so that it survives a look at another view and can be filled from an earlier job. */

const TEXTS = ["negative_prompt", "output_format", "scheduler"];

export const draft = { type: "image", prompt: "", model: "", aspect: "", n: 1, duration: "", advanced: {}, open: false };

/** Fill the form with what made this job; output i of it had its own seed. */
export function reuse(job, models, index = 0) {
  const { params } = job;
  const model = models.find(({ name }) => name === job.model);
  const aspect = Object.entries(model?.sizes ?? {}).find(([, [w, h]]) => w === params.width && h === params.height)?.[0];
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
      scheduler: params.scheduler && params.scheduler !== usual(model) ? params.scheduler : "",
      clip_skip: params.clipSkip ?? "",
      loras: (params.loras ?? []).map((lora) => ({ ...lora })),
    },
  });
  location.hash = "#/create";
}

const usual = (model) => model?.defaults?.scheduler ?? model?.schedulers?.[0];

/** The body of POST /api/generate: what was said, and that somebody watches. */
export function bodyOf(draft) {
  const body = { prompt: draft.prompt, type: draft.type, preview: true };
  const { loras = [], ...said } = draft.advanced;
  if (draft.model) body.model = draft.model;
  if (draft.aspect && !said.width && !said.height) body.aspect_ratio = draft.aspect;
  if (draft.type === "image" && Number(draft.n) > 1) body.n = Number(draft.n);
  if (draft.type === "video" && draft.duration && !said.num_frames) body.duration = Number(draft.duration);
  if (draft.type === "image") delete said.num_frames;
  if (loras.length) body.loras = loras.map(({ name, weight }) => ({ name, weight: weight === "" ? 1 : Number(weight) }));
  for (const [name, value] of Object.entries(said)) {
    if (value === "" || value === false || value === null || value === undefined) continue;
    body[name] = TEXTS.includes(name) || value === true ? value : Number(value);
  }
  return body;
}
