/** The form of the Create view: it edits the draft, with the options that the chosen model supports. */

import { choice, field, h, options, say } from "../dom.js";
import { IDEAS, draft } from "../draft.js";
import { count } from "../format.js";
import { icon, shape } from "../icons.js";
import { session } from "../session.js";
import { advancedFields, numberField } from "./advanced_fields.js";

const RATIOS = ["1:1", "16:9", "9:16"];

/** `models()` and `loras()` return what the server has offered so far. `submit()` sends the draft. */
export function createForm(models, loras, submit) {
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
        ])
          delete draft.advanced[name];
        draw();
      },
    ),
    field("Prompt", prompt),
    middle,
    details,
    problem,
    h("div", { class: "send" }, button, allowanceLine),
  );

  function send() {
    if (prompt.value.trim()) submit();
    else show("Describe what you want to see.", prompt);
  }

  const ofType = () => models().filter(({ type }) => type === draft.type);
  const chosen = () =>
    ofType().find(({ name }) => name === draft.model) ?? ofType().find((model) => model.default) ?? ofType()[0];

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
    const size = model?.sizes?.[draft.aspect];
    middle.replaceChildren(
      choice(
        "aspect_ratio",
        `Aspect ratio${size ? ` · ${size[0]} × ${size[1]}` : ""}`,
        RATIOS.map((ratio) => [ratio, ratio, shape(ratio)]),
        draft.aspect,
        (value) => {
          draft.aspect = value;
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
    if (!model && models().length)
      middle.append(h("p", { class: "note warn" }, `There is no ${draft.type} model. Add one in the Models view.`));
    advanced.replaceChildren(...advancedFields(model, loras()));
    allowance();
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
      for (const control of element.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
      problem.hidden = true;
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
