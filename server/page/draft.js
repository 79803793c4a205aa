/** The state of the Create form. It survives a change of the view and a reload of the tab. */

import { inputsOf, readsPrompt, takesStrength } from "./model_inputs.js";
import { session } from "./session.js";
import { isKept } from "./uploads.js";

const NAME = "agentname-draft";
const TEXTS = ["negative_prompt", "output_format", "scheduler", "speed", "fit"];

export const IDEAS = {
  image: [
    "A futuristic city at night",
    "A red circle at the left on a blue background",
    "Mountains at sunrise",
    "A forest in the rain",
  ],
  video: ["Ocean waves at sunset", "A car passes a city at night", "A green star moves to the right"],
};

/** Without pictures: lists of inputs by name, each as `uploads.js` describes it. Only references may be several. */
export const noPictures = () => ({
  pictures: { image: [], mask: [], images: [], last_image: [], video: [], control: [] },
  strength: "",
  control: { by: "", strength: "" }, // by: "NAME/TYPE" of an adapter
  asPicture: true, // the size follows the picture
});

export const draft = {
  type: "image",
  prompt: "",
  model: "",
  aspect: "",
  n: 1,
  duration: "",
  advanced: {},
  open: false,
  ...noPictures(),
  ...stored(),
};
addEventListener("pagehide", () => session.key && sessionStorage.setItem(NAME, JSON.stringify(draft)));

function stored() {
  try {
    const found = JSON.parse(sessionStorage.getItem(NAME)) ?? {};
    for (const name of Object.keys(found.pictures ?? {})) found.pictures[name] = found.pictures[name].filter(isKept);
    return found;
  } catch {
    return {}; // of another version
  }
}

/** The names of the inputs that the draft has and that the model takes. */
export const givenInputs = (model) => inputsOf(model, draft.type).filter((name) => draft.pictures[name].length);

/** The names of the inputs that the draft has and that the model does not take. */
export const unusedInputs = (model) =>
  Object.keys(draft.pictures).filter(
    (name) => draft.pictures[name].length && !inputsOf(model, draft.type).includes(name),
  );

/** Whether the size of the result is that of a picture or clip unless the form says otherwise. */
export const hasShape = (model) =>
  givenInputs(model).some((name) => name !== "mask" && (name !== "images" || draft.type === "image"));

/** The body of POST /api/generate: the filled fields that the model takes, and a request for previews. */
export function bodyOf(draft, model) {
  const body = { prompt: promptOf(draft, model), type: draft.type, preview: true, ...picturesOf(draft, model) };
  const { loras = [], upscale, ...advanced } = model?.adapter ? ofUpscaler(draft.advanced) : draft.advanced;
  if (draft.model || model?.adapter) body.model = draft.model || model.name;
  const followsPicture = hasShape(model) && (draft.asPicture || model.adapter);
  if (draft.aspect && !followsPicture && !advanced.width && !advanced.height) body.aspect_ratio = draft.aspect;
  if (draft.type === "image" && Number(draft.n) > 1) body.n = Number(draft.n);
  if (draft.type === "video" && draft.duration && !advanced.num_frames) body.duration = Number(draft.duration);
  if (draft.type === "image") delete advanced.num_frames;
  if (!hasShape(model)) delete advanced.fit;
  if (loras.length)
    body.loras = loras.map(({ name, weight }) => ({ name, weight: weight === "" ? 1 : Number(weight) }));
  if (upscale) body.upscale = { model: upscale };
  for (const [name, value] of Object.entries(advanced)) {
    if (value === "" || value === false || value === null || value === undefined) continue;
    body[name] = TEXTS.includes(name) || value === true ? value : Number(value);
  }
  return body;
}

const ofUpscaler = ({ width, height, output_format }) => ({ width, height, output_format });

/** The API wants a prompt also for a model that reads none: what the result is found by. */
function promptOf(draft, model) {
  return readsPrompt(model) ? draft.prompt : draft.pictures[givenInputs(model)[0]]?.[0].name || "Enlarged";
}

function picturesOf(draft, model) {
  const given = givenInputs(model);
  const fields = {};
  for (const name of given) {
    const ids = draft.pictures[name].map(({ id }) => id);
    fields[name] = name === "images" ? ids : name === "control" ? [controlOf(draft.control, ids[0])] : ids[0];
  }
  if (draft.strength !== "" && takesStrength(model, given)) fields.strength = Number(draft.strength);
  return fields;
}

function controlOf({ by, strength }, image) {
  const [name, type] = [by.slice(0, by.lastIndexOf("/")), by.slice(by.lastIndexOf("/") + 1)];
  return {
    image,
    ...(name ? { model: name } : {}),
    ...(type ? { type } : {}),
    ...(strength === "" ? {} : { strength: Number(strength) }),
  };
}
