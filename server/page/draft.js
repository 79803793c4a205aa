/** What the Create form holds, so that it survives a look at another view and can be filled from an earlier job. */

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
    },
  });
  location.hash = "#/create";
}

/** The body of POST /api/generate: what was said, and that somebody watches. */
export function bodyOf(draft) {
  const body = { prompt: draft.prompt, type: draft.type, preview: true };
  const said = { ...draft.advanced };
  if (draft.model) body.model = draft.model;
  if (draft.aspect && !said.width && !said.height) body.aspect_ratio = draft.aspect;
  if (draft.type === "image" && Number(draft.n) > 1) body.n = Number(draft.n);
  if (draft.type === "video" && draft.duration && !said.num_frames) body.duration = Number(draft.duration);
  if (draft.type === "image") delete said.num_frames;
  for (const [name, value] of Object.entries(said)) {
    if (value === "" || value === false || value === null || value === undefined) continue;
    body[name] = ["negative_prompt", "output_format"].includes(name) || value === true ? value : Number(value);
  }
  return body;
}
