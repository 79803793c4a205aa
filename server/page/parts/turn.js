/** One message of a conversation. Above a reply is what the model thought before it, folded; below it is a note. */

import { copy } from "../announce.js";
import { h, say } from "../dom.js";
import { count, seconds } from "../format.js";
import { icon } from "../icons.js";

/** Tokens, rate and warnings of a reply. `took`: seconds from its first piece to its end. */
export function noteOf({ reply, usage, finishReason, warnings }, took) {
  const { completionTokens, thinkingTokens } = usage;
  const thought = thinkingTokens ? ` (${thinkingTokens.toLocaleString()} of thinking)` : "";
  const rate = took > 0.1 ? `, ${((completionTokens - 1) / took).toFixed(0)} per second` : "";
  const cut = finishReason === "length" ? ", cut at the token limit" : "";
  const early = thinkingTokens && !reply ? `${cut ? "" : ", ended"} while thinking` : "";
  return [`${count(completionTokens, "token")}${thought}${rate}${cut}${early}`, ...(warnings ?? [])].join(". ");
}

/** A stored message. */
export function turn({ role, content, thinking = "" }) {
  if (role === "user") return article("user", "You", h("div", { class: "text" }, content));
  const reply = growingReply();
  reply.end({ content, thinking, note: content ? "" : "Ended while thinking" });
  return reply.element;
}

/** A reply in `element` that is still generated: `think` and `write` add text to it, and `end` completes it. */
export function growingReply() {
  const label = h("span", {}, "Thought");
  const clock = h("span", { "aria-hidden": "true" });
  const thoughts = h("div", { class: "thoughts" }, "");
  const thinking = h("details", { class: "thinking", hidden: true }, h("summary", {}, label, clock), thoughts);
  const text = h("div", { class: "text" }, "");
  const element = article("assistant growing", "Reply", thinking, text);
  let thinksSince = null; // milliseconds, while the model thinks
  let growsSince = null; // milliseconds at the first piece

  function stopThinking() {
    if (thinksSince === null) return;
    say(label, `Thought for ${seconds(past(thinksSince))}`);
    say(clock, "");
    thinksSince = null;
    element.classList.remove("thinks");
  }

  return {
    element,
    get content() {
      return text.textContent;
    },
    /** Since the first piece: the rate of tokens excludes the time in the queue. */
    get seconds() {
      return growsSince === null ? 0 : past(growsSince);
    },
    get thinks() {
      return thinksSince !== null;
    },
    think(piece) {
      if (thinksSince === null) {
        thinksSince = performance.now();
        growsSince ??= thinksSince;
        say(label, "Thinking…");
        element.classList.add("thinks");
        thinking.hidden = false;
      }
      add(thoughts, piece);
      const whole = Math.floor(past(thinksSince));
      say(clock, whole ? ` ${whole} s` : "");
    },
    write(piece) {
      stopThinking();
      growsSince ??= performance.now();
      add(text, piece);
    },
    /** Shows the final texts, by default those so far. */
    end({ content = text.textContent, thinking: thought = thoughts.textContent, note = "", failed = false }) {
      stopThinking();
      say(text, content);
      say(thoughts, thought);
      thinking.hidden = !thought;
      element.classList.remove("growing");
      if (note || content) element.append(footer(content, note, failed));
    },
  };
}

const article = (kind, name, ...children) => h("article", { class: `turn ${kind}`, "aria-label": name }, ...children);

const past = (since) => (performance.now() - since) / 1000;

/** Adds to the element's text in place, so that what the user has selected stays selected. */
const add = (element, piece) => element.firstChild.appendData(piece);

function footer(content, note, failed) {
  const copying = {
    class: "button plain little",
    type: "button",
    "aria-label": "Copy this reply",
    onclick: () => copy(content, "Reply"),
  };
  return h(
    "div",
    { class: `row small ${failed ? "failed" : "soft"}` },
    note,
    content && h("button", copying, icon("copy")),
  );
}
