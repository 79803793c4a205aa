/** How much of a picture or clip is made anew: a slider with words. */

import { field, h } from "../../dom.js";
import { draft, givenInputs } from "../../draft.js";
import { takesStrength } from "../../model_inputs.js";

const USUAL = 0.8; // the default of most pipelines
const USUAL_OF_MASKS = 1; // that of most pipelines for a part of the picture
const WORDS = [
  [0.3, "touches up details"],
  [0.55, "keeps most of it"],
  [0.8, "keeps the composition"],
  [0.95, "keeps little"],
  [1, "makes all anew"],
];

export function strengthField(model) {
  const given = givenInputs(model);
  if (!takesStrength(model, given)) return [];
  const usual = given.includes("mask") ? USUAL_OF_MASKS : USUAL;
  const words = h("output", { class: "soft" });
  const slider = h("input", {
    type: "range",
    name: "strength",
    min: 0.05,
    max: 1,
    step: 0.05,
    value: draft.strength === "" ? usual : draft.strength,
    oninput: () => {
      draft.strength = slider.value;
      tell();
    },
  });
  function tell() {
    const meaning = WORDS.find(([limit]) => Number(slider.value) <= limit)[1];
    const chosen = `${Number(slider.value).toFixed(2)}: ${meaning}`;
    words.textContent = draft.strength === "" ? "the model's default" : chosen;
    slider.setAttribute("aria-valuetext", words.textContent);
  }
  tell();
  const element = field("How much to change", slider);
  element.classList.add("strength");
  element.querySelector("label").after(words);
  return [element];
}
