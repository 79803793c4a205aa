/** Chat: conversations in this tab, replies as they are made. The server keeps the turns; the tab keeps what it shows. */

import { announce, complain, copy } from "../announce.js";
import { events, get } from "../api.js";
import { confirm } from "../dialog.js";
import { field, h, options, say } from "../dom.js";
import { count } from "../format.js";
import { icon } from "../icons.js";

const NAME = "agentname-chats";
const IDEAS = ["What can you help me with?", "Write two lines about the sea.", "Explain what a diffusion model does."];
const NEAR_PX = 80; // as near to the end as this, the view follows the text

/** {id, title, turns: [{role, text, note}], system, model}; newest first */
const conversations = JSON.parse(sessionStorage.getItem(NAME) ?? "[]");
let current = conversations[0] ?? null;

function keep() {
  try {
    sessionStorage.setItem(NAME, JSON.stringify(conversations.slice(0, 50)));
  } catch {
    announce("This tab's storage is full: new turns will be forgotten when it reloads.");
  }
}

export default function chat({ signal }) {
  const list = h("ul", { class: "threads" });
  const log = h("div", { class: "log", role: "log", "aria-label": "Conversation", "aria-live": "off", tabindex: "0" });
  const text = h("textarea", { class: "input", rows: 1, name: "message", maxlength: 32000, placeholder: "Write a message", "aria-label": "Message", onkeydown: onEnter });
  const button = h("button", { class: "button main-one", type: "submit" }, icon("send"), h("span", { class: "unseen" }, "Send"));
  const model = h("select", { class: "input", name: "model", onchange: () => { settings().model = model.value; } });
  const system = h("textarea", { class: "input short", name: "system", rows: 2, maxlength: 32000, placeholder: "How it should answer", oninput: () => { settings().system = system.value; } });
  const temperature = h("input", { class: "input", name: "temperature", type: "number", min: 0, max: 2, step: "any", placeholder: "the model's", oninput: () => { settings().temperature = temperature.value; } });
  const longest = h("input", { class: "input", name: "max_tokens", type: "number", min: 1, max: 32768, placeholder: "the model's", oninput: () => { settings().max_tokens = longest.value; } });
  const form = h("form", { class: "composer", onsubmit: (event) => { event.preventDefault(); if (going) going.abort(); else send(); } },
    h("div", { class: "beside" }, text, button),
    h("details", {}, h("summary", {}, "Model and system prompt"),
      h("div", { class: "fields" }, field("Model", model), field("Temperature", temperature), field("System prompt", system, null, { class: "wide" }), field("Longest reply (tokens)", longest))));
  const unsent = { system: "", model: "", temperature: "", max_tokens: "" }; // of a conversation not begun
  let going = null;

  const settings = () => current ?? unsent;

  function onEnter(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!going) form.requestSubmit();
  }

  async function send() {
    const said = text.value;
    if (!said.trim()) return text.focus();
    if (!current) {
      current = { id: null, title: said.slice(0, 60), turns: [], ...unsent };
      conversations.unshift(current);
      log.replaceChildren();
    }
    const mine = current;
    const reply = { role: "assistant", text: "", note: "" };
    mine.turns.push({ role: "user", text: said }, reply);
    text.value = "";
    log.append(turn(mine.turns.at(-2)));
    const shown = turn(reply);
    shown.classList.add("going");
    log.append(shown);
    drawList();
    toEnd();
    going = new AbortController();
    const stop = () => going?.abort();
    signal.addEventListener("abort", stop, { once: true });
    busy(true);
    let began = null; // with the first piece of text: waiting is not writing
    try {
      for await (const { event, data } of events("POST", "/api/chat", bodyOf(mine, said), { signal: going.signal })) {
        if (event === "delta") {
          began ??= performance.now();
          reply.text += data.text;
          const follows = nearEnd();
          say(shown.querySelector(".text"), reply.text);
          if (follows && current === mine) toEnd();
        } else if (event === "done") {
          mine.id = data.conversationId;
          reply.text = data.reply;
          const { completionTokens } = data.usage;
          const took = (performance.now() - (began ?? performance.now())) / 1000;
          const pace = took > 0.1 ? `, ${((completionTokens - 1) / took).toFixed(0)} a second` : "";
          reply.note = `${count(completionTokens, "token")}${pace}${data.finishReason === "length" ? ", cut at its longest" : ""}`;
          if (data.warnings?.length) reply.note += `. ${data.warnings.join(" ")}`;
        } else if (event === "error") {
          throw new Error(data.error);
        }
      }
      announce(`Reply: ${reply.text}`);
    } catch (error) {
      reply.note = error.name === "AbortError" ? "Stopped" : error.message;
      reply.failed = error.name !== "AbortError";
      if (!reply.text && reply.failed) { text.value ||= said; announce(error.message); }
    } finally {
      going = null;
      busy(false);
      signal.removeEventListener("abort", stop);
      keep();
      shown.replaceWith(turn(reply));
      if (current === mine && nearEnd()) toEnd();
    }
  }

  function bodyOf(conversation, message) {
    const body = { message, stream: true };
    if (conversation.id) body.conversationId = conversation.id;
    for (const name of ["system", "model"]) if (conversation[name]) body[name] = conversation[name];
    for (const name of ["temperature", "max_tokens"]) if (conversation[name]) body[name] = Number(conversation[name]);
    return body;
  }

  function busy(now) {
    button.replaceChildren(icon(now ? "stop" : "send"), h("span", { class: "unseen" }, now ? "Stop" : "Send"));
    if (!now) text.focus({ preventScroll: true });
  }

  const nearEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_PX;
  const toEnd = () => { log.scrollTop = log.scrollHeight; };

  function open(conversation) {
    going?.abort();
    current = conversation;
    const { system: how, model: which, temperature: heat, max_tokens: most } = settings();
    Object.assign(system, { value: how ?? "" });
    Object.assign(temperature, { value: heat ?? "" });
    Object.assign(longest, { value: most ?? "" });
    if (which) model.value = which;
    drawList();
    if (current) log.replaceChildren(...current.turns.map(turn));
    else log.replaceChildren(h("div", { class: "empty" }, icon("chat"), h("h2", {}, "A new conversation"), h("p", {}, "It remembers what was said before. Try:"), h("div", { class: "row" }, IDEAS.map((idea) => h("button", { class: "button little", type: "button", onclick: () => { text.value = idea; form.requestSubmit(); } }, idea)))));
    toEnd();
  }

  function drawList() {
    list.replaceChildren(...conversations.map((conversation) =>
      h("li", {},
        h("button", { class: "thread", type: "button", "aria-current": conversation === current ? "true" : null, onclick: () => open(conversation) }, conversation.title),
        h("button", { class: "button plain little", type: "button", "aria-label": `Forget “${conversation.title}”`, title: "Forget", onclick: () => forget(conversation) }, icon("close")))));
  }

  async function forget(conversation) {
    if (!(await confirm("Forget this conversation?", "It disappears from this tab.", "Forget"))) return;
    conversations.splice(conversations.indexOf(conversation), 1);
    keep();
    open(conversation === current ? conversations[0] ?? null : current);
  }

  get("/api/models", { signal }).then(({ models }) => {
    const talkers = models.filter(({ type }) => type === "chat");
    options(model, talkers.map(({ name, default: first }) => [first ? "" : name, `${name}${first ? " (default)" : ""}`]), settings().model);
    if (!talkers.length) form.prepend(h("p", { class: "note warn" }, "There is no chat model here. Add one under Models."));
  }, complain);
  open(current);
  return [
    h("header", {}, h("div", {}, h("h1", { tabindex: "-1" }, "Chat")),
      h("button", { class: "button", type: "button", onclick: () => { open(null); text.focus(); } }, icon("plus"), "New conversation")),
    h("div", { class: "talk" }, h("aside", { "aria-label": "Conversations" }, list), h("section", { class: "thread-view", "aria-label": "Messages" }, log, form)),
  ];
}

function turn({ role, text, note, failed }) {
  const who = role === "user" ? "You" : "Reply";
  return h("article", { class: `turn ${role}`, "aria-label": who },
    h("div", { class: "text" }, text),
    role === "assistant" && (note || text)
      ? h("div", { class: `row small ${failed ? "failed" : "soft"}` }, note, text && h("button", { class: "button plain little", type: "button", "aria-label": "Copy this reply", onclick: () => copy(text, "Reply") }, icon("copy")))
      : null);
}
