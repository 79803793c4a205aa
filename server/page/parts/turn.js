/** One message of a conversation, with a note below a reply. */

import { copy } from "../announce.js";
import { h } from "../dom.js";
import { count } from "../format.js";
import { icon } from "../icons.js";

/** Tokens, rate and warnings of a reply. `took`: seconds from its first piece to its end. */
export function noteOf({ usage, finishReason, warnings }, took) {
  const { completionTokens } = usage;
  const rate = took > 0.1 ? `, ${((completionTokens - 1) / took).toFixed(0)} per second` : "";
  const cut = finishReason === "length" ? ", cut at the token limit" : "";
  const summary = `${count(completionTokens, "token")}${rate}${cut}`;
  return [summary, ...(warnings ?? [])].join(". ");
}

export function turn({ role, content, note = "", failed }) {
  const who = role === "user" ? "You" : "Reply";
  return h(
    "article",
    { class: `turn ${role}`, "aria-label": who },
    h("div", { class: "text" }, content),
    role === "assistant" && (note || content)
      ? h(
          "div",
          { class: `row small ${failed ? "failed" : "soft"}` },
          note,
          content &&
            h(
              "button",
              {
                class: "button plain little",
                type: "button",
                "aria-label": "Copy this reply",
                onclick: () => copy(content, "Reply"),
              },
              icon("copy"),
            ),
        )
      : null,
  );
}
