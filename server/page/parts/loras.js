/** The LoRAs of a request: rows of a name and a weight. */

import { h, options } from "../dom.js";
import { icon } from "../icons.js";

const MAX_LORAS = 8;

/** Edits `values.loras`, a list of {name, weight}. `names`: the LoRAs on the server. */
export function loraRows(values, names) {
  const rows = h("ul", { class: "stack tight" });
  const add = h(
    "button",
    {
      class: "button little",
      type: "button",
      onclick: () => {
        values.loras = [...chosen(), { name: free()[0], weight: 1 }];
        draw();
        rows.lastChild.querySelector("select").focus();
      },
    },
    icon("plus"),
    "Add a LoRA",
  );
  const chosen = () => values.loras ?? [];
  const free = () => names.filter((name) => !chosen().some((lora) => lora.name === name));

  function row(lora) {
    const name = options(
      h("select", {
        class: "input",
        "aria-label": "LoRA",
        onchange: () => {
          lora.name = name.value;
          draw();
        },
      }),
      [lora.name, ...free()].map((option) => [option, option]),
      lora.name,
    );
    const weight = h("input", {
      class: "input weight",
      type: "number",
      min: -10,
      max: 10,
      step: 0.05,
      "aria-label": `Weight of ${lora.name}`,
      value: lora.weight,
      oninput: () => {
        lora.weight = weight.value;
      },
    });
    return h(
      "li",
      { class: "beside" },
      name,
      weight,
      h(
        "button",
        {
          class: "button plain little",
          type: "button",
          "aria-label": `Remove ${lora.name}`,
          onclick: () => {
            values.loras = chosen().filter((other) => other !== lora);
            draw();
            add.focus();
          },
        },
        icon("close"),
      ),
    );
  }

  function draw() {
    rows.replaceChildren(...chosen().map(row));
    add.hidden = chosen().length >= MAX_LORAS || !free().length;
  }

  draw();
  return h("fieldset", { class: "field wide", name: "loras" }, h("legend", {}, "LoRAs"), rows, add);
}
