/** The sign-in form: checks a key and keeps it for this tab. */

import { get } from "../api.js";
import { h } from "../dom.js";
import { session } from "../session.js";

export function signin(reason, done) {
  const input = h("input", {
    class: "input mono",
    id: "key",
    type: "password",
    name: "key",
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "an_…",
    required: true,
    "aria-describedby": "key-hint problem",
  });
  const problem = h("p", { class: "note bad", id: "problem", role: "alert", hidden: !reason }, reason ?? "");
  const button = h("button", { class: "button main-one", type: "submit" }, "Open");

  async function submit(event) {
    event.preventDefault();
    const key = input.value.trim();
    if (!key || button.disabled) return;
    button.disabled = true;
    problem.hidden = true;
    try {
      session.me = await get("/api/me", { key });
      session.keep(key);
      done();
    } catch (error) {
      problem.textContent =
        error.code === 401 ? "The server does not know this key. Check that it was copied completely." : error.message;
      problem.hidden = false;
      input.setAttribute("aria-invalid", "true");
      button.disabled = false;
      input.focus();
    }
  }

  return h(
    "main",
    { class: "signin", id: "main" },
    h(
      "div",
      { class: "signin-box" },
      h("div", { class: "brand" }, h("img", { src: "/page/icon.svg", alt: "", width: 26, height: 26 }), "AgentName"),
      h("h1", {}, "Images, video and chat from this machine"),
      h(
        "form",
        { class: "stack", onsubmit: submit },
        h(
          "div",
          { class: "field" },
          h("label", { htmlFor: "key" }, "API key"),
          input,
          h(
            "span",
            { class: "hint", id: "key-hint" },
            "The server printed a key at its first start. The key stays in this tab until you close the tab.",
          ),
        ),
        problem,
        button,
      ),
      h(
        "details",
        { class: "soft small" },
        h("summary", {}, "No key yet?"),
        h("p", {}, "Run this command on the server's machine to create a key with all rights:"),
        h("pre", { class: "code", tabindex: "0" }, "agentname keys create --plan enterprise --admin --name me"),
      ),
    ),
  );
}
