/** One place of the Create form for a picture or clip: empty it asks for a file, filled it shows what is there. */

import { h } from "../../dom.js";
import { icon } from "../../icons.js";
import { addressOf } from "../../uploads.js";

export const KINDS = {
  picture: { accept: "image/png,image/jpeg,image/webp", word: "picture" },
  clip: { accept: "video/mp4,video/webm", word: "clip" },
};

/** An empty place. `wide`: the only one. `first`: nothing is there yet, so that it says how to add something. */
export function emptySlot({ name, label, kind, needed, wide, first, busy, choose }) {
  const title = first ? `Add a ${KINDS[kind].word}` : label;
  const how = first ? "Drop it, paste it, or choose a file" : needed ? "needed" : "optional";
  const words = [h("b", {}, title), h("span", {}, busy ? "Sending…" : how)];
  return h(
    "button",
    {
      class: `slot ${wide ? "wide" : ""}`,
      type: "button",
      name,
      "data-slot": name,
      "aria-label": `Add: ${label}`,
      "aria-busy": busy ? "true" : null,
      onclick: choose,
    },
    icon(kind === "clip" ? "video" : "image"),
    h("span", { class: "words" }, words),
  );
}

/** A filled place. `mask`: an input that is laid over the picture. `more`: further elements. `gone`: it has expired. */
export function filledSlot({ name, label, input, mask, needed, choose, removed, gone, more = [] }) {
  return h(
    "div",
    { class: "picked", "data-slot": name },
    h(
      "button",
      { class: "shown", type: "button", name, title: "Replace", "aria-label": `Replace: ${label}`, onclick: choose },
      shown(input, gone),
      mask ? shown(mask, gone, "mask") : null,
    ),
    h(
      "div",
      { class: "words" },
      h("b", {}, label, needed ? h("span", { class: "soft" }, " · needed") : null),
      h("span", { class: "soft small name" }, input.name),
      input.width ? h("span", { class: "soft small" }, `${input.width} × ${input.height}`) : null,
      more,
    ),
    removeButton(`Remove: ${label}`, removed),
  );
}

/** A small picture with a button that removes it. */
export function smallSlot({ name, label, input, removed, gone }) {
  const off = removeButton(`Remove: ${label}`, removed);
  return h("li", { class: "reference", "data-slot": name }, shown(input, gone), off);
}

const removeButton = (label, onclick) =>
  h("button", { class: "button plain little off", type: "button", "aria-label": label, onclick }, icon("close"));

function shown(input, gone, kind = "") {
  const element = input.mimeType?.startsWith("video/")
    ? h("video", { class: kind, muted: true, playsinline: true, preload: "metadata", "aria-hidden": "true" })
    : h("img", { class: kind, alt: "", decoding: "async" });
  addressOf(input.id).then(
    (address) => {
      element.src = address;
    },
    (error) => error.code === 404 && gone(input),
  );
  return element;
}
