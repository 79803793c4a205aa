/** How a map is followed: by which adapter, and how closely. */

import { field, h, options } from "../../dom.js";
import { draft } from "../../draft.js";
import { controlsFor, inputsOf } from "../../model_inputs.js";
import { numberField } from "../advanced_fields.js";

export function controlFields(model, models) {
  if (!inputsOf(model, draft.type).includes("control") || !draft.pictures.control.length) return [];
  const choices = controlsFor(model, models);
  const { control } = draft;
  if (!choices.some(([value]) => value === control.by))
    control.by = (choices.find(([value]) => control.by && value.startsWith(control.by)) ?? choices[0])[0];
  const select = options(
    h("select", {
      class: "input",
      name: "control_by",
      onchange: () => {
        control.by = select.value;
      },
    }),
    choices,
    control.by,
  );
  return [
    h(
      "div",
      { class: "fields" },
      field("Follow the map's", select),
      numberField(
        "How closely",
        "strength",
        { name: "control_strength", min: 0, max: 10, step: 0.05, placeholder: "1" },
        control,
      ),
    ),
  ];
}
