/** LoRAs of a picture: rows of a name and a weight. */

import { h, options } from "../dom.js";
import { icon } from "../icons.js";

const MOST = 8;

/** `said.loras`: [{name, weight}], changed as rows are. `names`: the files the server has. */
export function loraRows(said, names) {
  const rows = h("ul", { class: "stack tight" });
  const add = h("button", { class: "button little", type: "button", onclick: () => { said.loras = [...chosen(), { name: free()[0], weight: 1 }]; draw(); rows.lastChild.querySelector("select").focus(); } }, icon("plus"), "Add a LoRA");
  const chosen = () => said.loras ?? [];
  const free = () => names.filter((name) => !chosen().some((lora) => lora.name === name));

  function row(lora) {
    const name = options(h("select", { class: "input", "aria-label": "LoRA", onchange: () => { lora.name = name.value; draw(); } }), [lora.name, ...free()].map((one) => [one, one]), lora.name);
    const weight = h("input", { class: "input weight", type: "number", min: -10, max: 10, step: 0.05, "aria-label": `Weight of ${lora.name}`, value: lora.weight, oninput: () => { lora.weight = weight.value; } });
    return h("li", { class: "beside" }, name, weight,
      h("button", { class: "button plain little", type: "button", "aria-label": `Without ${lora.name}`, onclick: () => { said.loras = chosen().filter((other) => other !== lora); draw(); add.focus(); } }, icon("close")));
  }

  function draw() {
    rows.replaceChildren(...chosen().map(row));
    add.hidden = chosen().length >= MOST || !free().length;
  }

  draw();
  return h("fieldset", { class: "field wide", name: "loras" }, h("legend", {}, "LoRAs"), rows, add);
}
