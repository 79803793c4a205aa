/** The dialogs that add a model from the server's disk, or pull one. */

import { toast } from "../announce.js";
import { post } from "../api.js";
import { dialog } from "../dialog.js";
import { field, h, options } from "../dom.js";
import { checkReport } from "./check_report.js";

function ask(title, lead, fields, verb, send) {
  return dialog(title, (close) => {
    const problem = h("p", { class: "note bad", role: "alert", hidden: true });
    const button = h("button", { class: "button main-one", type: "submit" }, verb);
    async function submit(event) {
      event.preventDefault();
      button.disabled = true;
      problem.hidden = true;
      const body = Object.fromEntries(
        [...new FormData(event.target)]
          .filter(([, value]) => value !== "")
          .map(([name, value]) => [name, value === "on" ? true : value]),
      );
      try {
        close(await send(body));
      } catch (error) {
        problem.textContent = error.message;
        problem.hidden = false;
        button.disabled = false;
      }
    }
    return h(
      "form",
      { class: "stack", onsubmit: submit },
      h("p", { class: "soft" }, lead),
      fields,
      problem,
      h(
        "div",
        { class: "actions" },
        h("button", { class: "button", type: "button", onclick: () => close() }, "Cancel"),
        button,
      ),
    );
  });
}

const naming = () => [
  field(
    "Name",
    h("input", {
      class: "input",
      name: "name",
      placeholder: "from the source",
      pattern: "[a-z0-9][a-z0-9._\\-]{0,63}",
    }),
  ),
  field(
    "Type",
    options(h("select", { class: "input", name: "type" }), [
      ["", "Detected from the files"],
      ["image", "Image"],
      ["video", "Video"],
      ["chat", "Chat"],
      ["embedding", "Embeddings"],
    ]),
  ),
];

export function add() {
  const source = h("input", {
    class: "input mono",
    name: "source",
    required: true,
    placeholder: "/models/sdxl or owner/name",
    autofocus: true,
  });
  return ask(
    "Add a model",
    "A folder or file on the server's disk, or a model that the server has already downloaded.",
    [
      field("Source", source),
      checkReport(source),
      ...naming(),
      h(
        "label",
        { class: "check" },
        h("input", { type: "checkbox", name: "default" }),
        "Use it when a request names no model",
      ),
    ],
    "Add",
    (body) => post("/api/models", body),
  ).then((reply) => reply && toast("Added."));
}

export function pull() {
  return ask(
    "Pull a model",
    "A hub id such as owner/name, or the URL of a safetensors file. You can close this page during the download.",
    [
      field(
        "Source",
        h("input", { class: "input mono", name: "source", required: true, placeholder: "owner/name", autofocus: true }),
      ),
      ...naming(),
    ],
    "Pull",
    (body) => post("/api/models/pull", body),
  ).then((reply) => reply && toast("Download started."));
}
