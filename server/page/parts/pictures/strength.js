/** How much of a picture or clip is made anew: a slider with words. */

import { field, h } from "../../dom.js";
import { draft, givenInputs } from "../../draft.js";
import { takesStrength } from "../../model_inputs.js";

const USUAL = 0.8; // the default of most models
const WORDS = [
  [0.3, "touches up details"],
  [0.55, "keeps most of it"],
  [0.8, "keeps the composition"],
  [0.95, "keeps little"],
  [1, "makes it anew"],
];

export function strengthField(model) {
  if (!takesStrength(model, givenInputs(model))) return [];
  const words = h("output", { class: "soft" });
  const slider = h("input", {
    type: "range",
    name: "strength",
    min: 0.05,
    max: 1,
    step: 0.05,
    value: draft.strength === "" ? USUAL : draft.strength,
    oninput: () => {
      draft.strength = slider.value;
      tell();
    },
  });
  function tell() {
    const meaning = WORDS.find(([limit]) => Number(slider.value) <= limit)[1];
    words.textContent = draft.strength === "" ? "as the model does" : `${Number(slider.value).toFixed(2)}: ${meaning}`;
    slider.setAttribute("aria-valuetext", words.textContent);
  }
  tell();
  const element = field("How much to change", slider);
  element.classList.add("strength");
  element.querySelector("label").after(words);
  return [element];
}
