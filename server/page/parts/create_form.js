/** The form of the Create view: it edits the draft, with the options that the chosen model supports. */

import { choice, field, h, options, say } from "../dom.js";
import { IDEAS, draft, givenInputs, hasShape } from "../draft.js";
import { count } from "../format.js";
import { icon, shape } from "../icons.js";
import { LABELS, missingInput, modelsFor, readsPrompt, upscalersFor } from "../model_inputs.js";
import { session } from "../session.js";
import { advancedFields, numberField } from "./advanced_fields.js";
import { takeFiles } from "./pictures/drop.js";
import { picturesSection } from "./pictures/section.js";

const RATIOS = ["1:1", "16:9", "9:16"];
const AS_PICTURE = "picture"; // the size follows the picture

/** `models()` and `loras()` return what the server has offered so far. `submit(model)` sends the draft. */
export function createForm(models, loras, submit, signal) {
  const prompt = h("textarea", {
    class: "input",
    name: "prompt",
    rows: 4,
    maxlength: 4000,
    required: true,
    value: draft.prompt,
    placeholder: IDEAS[draft.type][0],
    oninput: () => {
      draft.prompt = prompt.value;
    },
    onkeydown: (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        element.requestSubmit();
      }
    },
  });
  const pictures = picturesSection({
    state: () => ({ model: chosen(), models: models() }),
    changed: draw,
    use: (name) => {
      draft.model = name;
      draw();
    },
    problem: (text, name) => report(text, name),
  });
  const promptField = field("Prompt", prompt);
  const middle = h("div", { class: "stack" });
  const advanced = h("div", { class: "fields" });
  const details = h(
    "details",
    {
      open: draft.open,
      ontoggle: () => {
        draft.open = details.open;
      },
    },
    h("summary", {}, "Advanced"),
    advanced,
  );
  const problem = h("p", { class: "note bad", role: "alert", hidden: true });
  const label = h("span", {}, "Create");
  const button = h("button", { class: "button main-one", type: "submit" }, icon("create"), label);
  const allowanceLine = h("p", { class: "soft small allowance" });
  const element = h(
    "form",
    {
      class: "card stack form",
      novalidate: true,
      onsubmit: (event) => {
        event.preventDefault();
        if (!button.disabled) send();
      },
    },
    choice(
      "type",
      "Type",
      [
        ["image", "Image", icon("image")],
        ["video", "Video", icon("video")],
      ],
      draft.type,
      (value) => {
        Object.assign(draft, { type: value, model: "", aspect: "" });
        for (const name of [
          "output_format",
          "num_frames",
          "steps",
          "guidance_scale",
          "width",
          "height",
          "scheduler",
          "clip_skip",
          "loras",
          "upscale",
        ])
          delete draft.advanced[name];
        draw();
      },
    ),
    promptField,
    pictures.element,
    middle,
    details,
    problem,
    h("div", { class: "send" }, button, allowanceLine),
  );

  takeFiles(element, pictures.add, signal);

  function send() {
    const model = chosen();
    const missing = missingInput(model, draft.type, givenInputs(model));
    if (readsPrompt(model) && !prompt.value.trim()) show("Describe what you want to see.", prompt);
    else if (missing) report(`${LABELS[draft.type][missing]}: ${model.name} needs one.`, missing);
    else submit(model);
  }

  function ofType() {
    return modelsFor(draft.type, models());
  }

  function chosen() {
    const all = ofType();
    const usual = all.find((model) => model.default) ?? all.find(readsPrompt) ?? all[0];
    return all.find(({ name }) => name === draft.model) ?? usual;
  }

  function draw() {
    const model = chosen();
    prompt.placeholder = IDEAS[draft.type][0];
    say(label, draft.type === "image" ? "Create image" : "Create video");
    draft.aspect ||= draft.type === "image" ? "1:1" : "16:9";
    const select = h("select", {
      class: "input",
      name: "model",
      onchange: () => {
        draft.model = select.value;
        draw();
      },
    });
    options(
      select,
      ofType().map(({ name, default: first, state }) => [
        name,
        `${name}${first ? " (default)" : ""}${state === "resident" ? " · in memory" : ""}`,
      ]),
      model?.name,
    );
    select.disabled = !model;
    promptField.hidden = !readsPrompt(model);
    pictures.draw();
    const canFollow = hasShape(model);
    const follows = canFollow && draft.asPicture;
    const size = follows ? null : model?.sizes?.[draft.aspect];
    const ratios = RATIOS.map((ratio) => [ratio, ratio, shape(ratio)]);
    const keepsShape = Boolean(model?.adapter);
    middle.replaceChildren(
      choice(
        "aspect_ratio",
        `Aspect ratio${size ? ` · ${size[0]} × ${size[1]}` : ""}`,
        canFollow ? [[AS_PICTURE, "Picture"], ...ratios] : ratios,
        follows ? AS_PICTURE : draft.aspect,
        (value) => {
          draft.asPicture = value === AS_PICTURE;
          if (!draft.asPicture) draft.aspect = value;
          delete draft.advanced.width;
          delete draft.advanced.height;
          draw();
          middle.querySelector(`[value="${value}"]`).focus();
        },
      ),
      h(
        "div",
        { class: "fields" },
        field("Model", select, null, { class: "wide" }),
        draft.type === "image"
          ? numberField("Images", "n", { min: 1, max: 8 }, draft)
          : numberField(
              "Seconds",
              "duration",
              { min: 1, max: model?.limits?.maxDurationS ?? 60, placeholder: lengthOf(model) },
              draft,
            ),
      ),
    );
    middle.firstChild.hidden = keepsShape;
    if (!model && models().length)
      middle.append(h("p", { class: "note warn" }, `There is no ${draft.type} model. Add one in the Models view.`));
    advanced.replaceChildren(...advancedFields(model, loras(), upscalersFor(model, models()), canFollow));
    allowance();
  }

  /** Shows an error of a picture at its place, or removes the errors. */
  function report(text, name) {
    for (const control of element.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
    problem.hidden = !text;
    if (text) show(text, name ? element.querySelector(`[name="${name}"]`) : null);
  }

  function show(text, control) {
    problem.textContent = text;
    problem.hidden = false;
    control?.setAttribute("aria-invalid", "true");
    control?.focus();
  }

  function allowance() {
    const { used, limit } = session.me?.usage?.[draft.type === "image" ? "images" : "videos"] ?? {};
    say(
      allowanceLine,
      typeof limit === "number" ? `${Math.max(0, limit - used)} of ${count(limit, draft.type)} left today` : "",
    );
  }

  draw();
  return {
    element,
    draw,
    allowance,
    busy: (now) => {
      button.disabled = now;
    },
    problem(error) {
      report(null);
      if (!error) return;
      const name = /^[a-z_]+/.exec(error.message)?.[0]; // the server's message begins with the name of the field
      const control = error.code === 400 && name ? element.querySelector(`[name="${name}"]`) : null;
      if (control?.closest("details")) details.open = true;
      show(error.message, control);
    },
  };
}

function lengthOf(model) {
  const { numFrames, fps } = model?.defaults ?? {};
  return numFrames && fps ? String(Math.round(numFrames / fps)) : "";
}
