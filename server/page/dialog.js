/** Native modal dialogs: the focus stays inside, Escape closes, and the focus then returns to where it was. */

import { h } from "./dom.js";
import { icon } from "./icons.js";

let lastId = 0;

/** Shows what `build(close)` returns. Resolves with the argument of `close`, or with undefined when dismissed. */
export function dialog(title, build, { large = false } = {}) {
  return new Promise((resolve) => {
    let answer;
    const close = (value) => {
      answer = value;
      box.close();
    };
    const heading = h("h2", { id: `dialog${++lastId}` }, title);
    const box = h(
      "dialog",
      {
        class: large ? "large" : "",
        "aria-labelledby": heading.id,
        onclose: () => {
          box.remove();
          resolve(answer);
        },
        onclick: (event) => event.target === box && close(),
      },
      h(
        "div",
        { class: "stack" },
        h(
          "div",
          { class: "row" },
          h("div", { class: "grow" }, heading),
          h(
            "button",
            { class: "button plain little", type: "button", "aria-label": "Close", onclick: () => close() },
            icon("close"),
          ),
        ),
        build(close),
      ),
    );
    document.body.append(box);
    box.showModal();
  });
}

export function confirm(title, text, verb) {
  return dialog(title, (close) => [
    h("p", {}, text),
    h(
      "div",
      { class: "actions" },
      h("button", { class: "button", type: "button", onclick: () => close(false) }, "Cancel"),
      h("button", { class: "button risky", type: "button", onclick: () => close(true) }, verb),
    ),
  ]);
}
