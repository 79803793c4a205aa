/** Which pictures and clips a model takes. `model` and `models` are as GET /api/models lists them. Pure functions. */

const NAMES = {
  image: ["image", "mask", "images", "control"],
  video: ["image", "last_image", "video", "mask", "images", "control"],
};

/** How an input is called, by the type of the result. */
export const LABELS = {
  image: { image: "Picture", mask: "Mask", images: "References", control: "Map" },
  video: {
    image: "First frame",
    last_image: "Last frame",
    video: "Clip",
    mask: "Mask",
    images: "References",
    control: "Map",
  },
};

const isUpscaler = (model) => model?.adapter?.kind === "upscaler";

/** The models that can make results of this type. Upscalers also enlarge clips. */
export const modelsFor = (type, models) =>
  models.filter((model) => model.type === type || (type === "video" && isUpscaler(model)));

/** The names of the inputs that the model takes for a result of this type, in the order in which they are shown. */
export function inputsOf(model, type) {
  const taken = model?.inputs ?? [];
  if (isUpscaler(model)) return type === "image" ? ["image"] : ["video"];
  return NAMES[type].filter((name) => taken.includes(name));
}

export const readsPrompt = (model) => !model || model.inputs.includes("text");

/** The models of the type that take all these inputs; those that also read a prompt come first, failed ones last. */
export const modelsTaking = (names, type, models) =>
  modelsFor(type, models)
    .filter((model) => names.every((name) => inputsOf(model, type).includes(name)))
    .sort((a, b) => rank(b) - rank(a));

const rank = (model) => readsPrompt(model) - 2 * (model.state === "failed");

/** The name of an input that is still missing, or null when what is `given` is enough. */
export function missingInput(model, type, given) {
  const taken = inputsOf(model, type);
  const sets = (model?.requiredInputs ?? []).filter((set) => set.every((name) => taken.includes(name)));
  if (!sets.length || sets.some((set) => set.every((name) => given.includes(name)))) return null;
  const asImage = given.includes("images") && taken.includes("images"); // some take either
  return asImage ? null : (sets[0].find((name) => !given.includes(name)) ?? null);
}

/** Whether a strength can be chosen with these inputs. */
export const takesStrength = (model, given) =>
  (given.includes("image") || given.includes("video")) &&
  (model?.tasks ?? []).some((task) => task.strength && given.every((name) => task.inputs.includes(name)));

/** The upscalers that the results of the model can go through. */
export const upscalersFor = (model, models) =>
  !model || isUpscaler(model)
    ? []
    : models.filter((other) => isUpscaler(other) && other.adapter.fits.includes(model.name));

/** What a map can be followed by: ["NAME/TYPE", label] of a ControlNet or T2I-Adapter, else of the model itself. */
export function controlsFor(model, models) {
  if (!model) return [];
  const lent = models.filter(
    ({ adapter }) => ["controlnet", "t2i_adapter"].includes(adapter?.kind) && adapter.fits.includes(model.name),
  );
  const choices = lent.flatMap(({ name, adapter: { types } }) =>
    types.length ? types.map((type) => [`${name}/${type}`, `${type} · ${name}`]) : [[`${name}/`, name]],
  );
  return choices.length ? choices : OWN_TYPES.map((type) => [`/${type}`, type]);
}

const OWN_TYPES = ["canny", "depth", "pose", "lineart", "scribble", "tile"];
