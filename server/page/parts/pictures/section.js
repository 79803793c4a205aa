/** The pictures of the Create form: places for what the chosen model takes, filled by choosing, dropping or pasting. */

import { announce } from "../../announce.js";
import { h } from "../../dom.js";
import { draft, givenInputs, unusedInputs } from "../../draft.js";
import { count } from "../../format.js";
import { icon } from "../../icons.js";
import { LABELS, inputsOf, missingInput, modelsTaking } from "../../model_inputs.js";
import { upload } from "../../uploads.js";
import { controlFields } from "./control.js";
import { drawMask } from "./mask_editor.js";
import { KINDS, emptySlot, filledSlot, smallSlot } from "./slot.js";
import { strengthField } from "./strength.js";

const MAX_REFERENCES = 16;

/** `state()` returns the chosen model and all models, `changed()` draws the form, `use(name)` chooses another model,
 * and `problem(text, name)` shows an error at an input, or with null none.
 */
export function picturesSection({ state, changed, use, problem }) {
  const busy = new Set(); // names of the inputs whose files are being sent
  const chooser = h("input", { type: "file", hidden: true, onchange: () => chosen() });
  const content = h("div", { class: "stack tight" });
  const element = h("div", { class: "pictures", role: "group", "aria-label": "Pictures" }, content, chooser);
  let choosing = null; // the name of the input that a file is chosen for

  const label = (name) => LABELS[draft.type][name] ?? LABELS.video[name];

  function choose(name) {
    choosing = name;
    chooser.accept = KINDS[kindOf(name)].accept;
    chooser.multiple = name === "images";
    chooser.value = "";
    chooser.click();
  }

  function chosen() {
    add([...chooser.files], choosing);
  }

  /** Sends files and puts them into the draft. `name`: the input that they are for, else where there is a place. */
  async function add(files, name) {
    for (const file of files) {
      const clip = file.type.startsWith("video/");
      const place = name ?? placeFor(clip);
      if (!place) {
        problem("A clip can be changed into another one: choose Video and a model that takes clips.", null);
        continue;
      }
      busy.add(place);
      changed();
      let failure = null;
      try {
        const input = await upload(file);
        const before = draft.pictures[place];
        draft.pictures[place] = place === "images" ? [...before, input].slice(0, MAX_REFERENCES) : [input];
        if (place === "image") draft.pictures.mask = [];
        announce(`${label(place)}: ${file.name} added`);
      } catch (error) {
        failure = error.message;
      }
      busy.delete(place);
      changed();
      problem(failure, place);
    }
  }

  /** The first free place for a picture or clip, else the one that is replaced. */
  function placeFor(clip) {
    if (clip) return draft.type === "video" ? "video" : null;
    const { model } = state();
    const places = inputsOf(model, draft.type).filter((name) => name !== "mask" && name !== "video");
    const isFree = (name) =>
      !busy.has(name) && draft.pictures[name].length < (name === "images" ? MAX_REFERENCES : 1);
    return places.find(isFree) ?? places[0] ?? "image"; // kept for a model that takes it
  }

  function remove(name, input) {
    draft.pictures[name] = draft.pictures[name].filter((other) => other !== input);
    if (name === "image") draft.pictures.mask = [];
    changed();
    content.querySelector(`[name="${name}"]`)?.focus();
  }

  function gone(name, input) {
    if (!draft.pictures[name].includes(input)) return;
    remove(name, input);
    problem(`${label(name)}: the server no longer has ${input.name}. Add it again.`, null);
  }

  async function mask() {
    const [picture] = draft.pictures.image;
    const before = draft.pictures.mask[0] ?? null;
    try {
      const drawn = await drawMask(picture, before);
      if (drawn === undefined) return;
      draft.pictures.mask = drawn ? [await upload(drawn)] : [];
      problem(null);
      changed();
    } catch (error) {
      problem(error.message, "image");
    }
    content.querySelector('[name="mask"]')?.focus();
  }

  function slotOf(name, needed, wide = false) {
    const [input] = draft.pictures[name];
    const common = { name, label: label(name), kind: kindOf(name), needed, choose: () => choose(name) };
    if (!input) return emptySlot({ ...common, busy: busy.has(name), wide, first: isOnly(name) });
    const slot = { ...common, input, removed: () => remove(name, input), gone: (other) => gone(whose(other), other) };
    return filledSlot(
      name === "image" && takes("mask") ? { ...slot, mask: draft.pictures.mask[0], more: maskButtons() } : slot,
    );
  }

  const isOnly = (name) => inputsOf(state().model, draft.type).every((other) => other === name || other === "mask");
  const takes = (name) => inputsOf(state().model, draft.type).includes(name);
  const whose = (input) => Object.keys(draft.pictures).find((name) => draft.pictures[name].includes(input));

  function maskButtons() {
    const [drawn] = draft.pictures.mask;
    return h(
      "span",
      { class: "row" },
      h(
        "button",
        { class: "button little", type: "button", name: "mask", onclick: mask },
        icon("pen"),
        drawn ? "Edit the mask" : "Draw a mask",
      ),
      drawn
        ? h(
            "button",
            { class: "button plain little", type: "button", onclick: () => remove("mask", drawn) },
            "Remove mask",
          )
        : null,
    );
  }

  function references() {
    const items = draft.pictures.images.map((input, index) =>
      smallSlot({
        name: "images",
        label: `Reference ${index + 1}`,
        input,
        removed: () => remove("images", input),
        gone: () => gone("images", input),
      }),
    );
    return h(
      "div",
      { class: "stack tight", "data-slot": "images" },
      h("span", { class: "label" }, `References · ${count(items.length, "picture")}`),
      h(
        "ul",
        { class: "references" },
        items,
        items.length < MAX_REFERENCES ? h("li", {}, emptySlot(more("images"))) : null,
      ),
    );
  }

  const more = (name) => ({ name, label: "More", kind: "picture", busy: busy.has(name), choose: () => choose(name) });

  function draw() {
    const { model, models } = state();
    const names = inputsOf(model, draft.type).filter((name) => name !== "mask");
    const needed = missingInput(model, draft.type, []);
    const filled = names.filter((name) => name !== "images" && draft.pictures[name].length);
    const empty = names.filter((name) => !draft.pictures[name].length);
    const focused = content.contains(document.activeElement) ? document.activeElement.name : null;
    content.replaceChildren(
      ...filled.map((name) => slotOf(name, name === needed)),
      ...(names.includes("images") && draft.pictures.images.length ? [references()] : []),
      ...(empty.length
        ? [h("div", { class: "slots" }, empty.map((name) => slotOf(name, name === needed, empty.length === 1)))]
        : []),
      ...strengthField(model),
      ...controlFields(model, models),
      ...notTaken(model, models),
    );
    if (focused) content.querySelector(`[name="${focused}"]`)?.focus();
    element.hidden = !content.children.length;
  }

  /** Says what the model does not take, and offers models that do. */
  function notTaken(model, models) {
    if (!model) return [];
    const unused = unusedInputs(model);
    const names = inputsOf(model, draft.type);
    if (names.length && !unused.length) return [];
    const wanted = unused.length ? [...givenInputs(model), ...unused] : ["image"];
    const able = modelsTaking(wanted, draft.type, models).slice(0, 4);
    if (!unused.length && !able.length) return [];
    const text = unused.length
      ? `${model.name} takes no ${unused.map((name) => label(name).toLowerCase()).join(", ")}: not used. `
      : `${model.name} takes no pictures. `;
    const others = able.length
      ? [able.length === 1 ? "This model does:" : "These models do:", able.map(({ name }) => chooseButton(name))]
      : unused.length > 1
        ? `No ${draft.type} model here takes all of them.`
        : `No ${draft.type} model here does.`;
    return [
      h(
        "div",
        { class: `row not-taken small ${unused.length ? "note warn" : "soft"}`, role: "note" },
        text,
        others,
        unused.length ? h("button", { class: "button little", type: "button", onclick: clear }, "Remove") : null,
      ),
    ];
  }

  const chooseButton = (name) =>
    h("button", { class: "button little", type: "button", onclick: () => use(name) }, name);

  function clear() {
    for (const name of unusedInputs(state().model)) draft.pictures[name] = [];
    changed();
  }

  return { element, draw, add };
}

const kindOf = (name) => (name === "video" ? "clip" : "picture");
