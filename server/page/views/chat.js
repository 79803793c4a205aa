/** The Chat view: conversations that the server stores, and replies that appear as they are generated. */

import { announce, complain } from "../announce.js";
import { events, get } from "../api.js";
import { field, h, options, say } from "../dom.js";
import { icon } from "../icons.js";
import { pathOf, threadList } from "../parts/threads.js";
import { growingReply, noteOf, turn } from "../parts/turn.js";

const NAME = "agentname-chat";
const IDEAS = ["What can you help me with?", "Write two lines about the sea.", "Explain what a diffusion model does."];
const NEAR_PX = 80; // the view follows the text while it is scrolled this close to the end
const TITLE_CHARS = 80; // the server cuts the title of a new conversation at the same length
const THINKING = [
  ["", "model's default"],
  ["off", "off"],
  ["low", "low"],
  ["medium", "medium"],
  ["high", "high"],
];

/** The tab's state: the open conversation, and the options of the next message. */
const here = {
  id: null,
  model: "",
  system: "",
  temperature: "",
  thinking: "",
  max_tokens: "",
  ...JSON.parse(sessionStorage.getItem(NAME) ?? "{}"),
};
const keep = (changes) => sessionStorage.setItem(NAME, JSON.stringify(Object.assign(here, changes)));

export default function chat({ signal }) {
  const log = h("div", { class: "log", role: "log", "aria-label": "Conversation", "aria-live": "off", tabindex: "0" });
  const text = h("textarea", {
    class: "input",
    rows: 1,
    name: "message",
    maxlength: 32000,
    placeholder: "Write a message",
    "aria-label": "Message",
    onkeydown: onEnter,
  });
  const button = h(
    "button",
    { class: "button main-one", type: "submit" },
    icon("send"),
    h("span", { class: "unseen" }, "Send"),
  );
  const model = h("select", { class: "input", name: "model", onchange: () => keep({ model: model.value }) });
  const system = h("textarea", {
    class: "input short",
    name: "system",
    rows: 2,
    maxlength: 32000,
    placeholder: "How the model should answer",
    value: here.system,
    oninput: () => keep({ system: system.value }),
  });
  const thinking = options(
    h("select", { class: "input", name: "thinking", onchange: () => keep({ thinking: thinking.value }) }),
    THINKING,
    here.thinking,
  );
  const number = (name, limits) =>
    h("input", {
      class: "input",
      type: "number",
      name,
      placeholder: "model's default",
      value: here[name],
      oninput: (event) => keep({ [name]: event.target.value }),
      ...limits,
    });
  const form = h(
    "form",
    {
      class: "composer",
      onsubmit: (event) => {
        event.preventDefault();
        if (going) going.abort();
        else send();
      },
    },
    h("div", { class: "beside" }, text, button),
    h(
      "details",
      {},
      h("summary", {}, "Model and system prompt"),
      h(
        "div",
        { class: "fields" },
        field("Model", model),
        field("Temperature", number("temperature", { min: 0, max: 2, step: "any" })),
        field("System prompt", system, null, { class: "wide" }),
        field("Thinking", thinking),
        field("Longest reply (tokens)", number("max_tokens", { min: 1 })),
      ),
    ),
  );
  const threads = threadList(
    {
      open: (thread) => open(thread).catch(complain),
      gone: (thread) => {
        if (thread.conversationId === here.id) begin();
      },
    },
    signal,
  );
  let going = null; // an AbortController while a reply is generated

  function onEnter(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!going) form.requestSubmit();
  }

  async function send() {
    const message = text.value;
    if (!message.trim()) return text.focus();
    if (!here.id) {
      keep({ id: newId() });
      log.replaceChildren();
    }
    const id = here.id;
    text.value = "";
    const reply = growingReply();
    log.append(turn({ role: "user", content: message }), reply.element);
    toEnd();
    threads.raise({
      conversationId: id,
      title: [...message.trim().replace(/\s+/g, " ")].slice(0, TITLE_CHARS).join(""),
    });
    threads.mark(id);
    going = new AbortController();
    const stop = () => going?.abort();
    signal.addEventListener("abort", stop, { once: true });
    busy(true);
    let whole = null;
    try {
      for await (const { event, data } of events("POST", "/api/chat", bodyOf(id, message), { signal: going.signal })) {
        if (event === "thinking") {
          if (!reply.thinks) announce("Thinking…");
          following(() => reply.think(data.text));
        } else if (event === "delta") {
          following(() => reply.write(data.text));
        } else if (event === "done") {
          whole = data;
        } else if (event === "error") {
          throw new Error(data.error);
        }
      }
      if (!whole) throw new Error("The connection broke before the reply was complete.");
      const note = noteOf(whole, reply.seconds);
      following(() => reply.end({ content: whole.reply, thinking: whole.thinking, note }));
      announce(`Reply: ${reply.content}`);
    } catch (error) {
      const stopped = error.name === "AbortError";
      const note = stopped ? `Stopped${reply.thinks ? " while thinking" : ""}` : error.message;
      following(() => reply.end({ note, failed: !stopped }));
      if (!reply.content && !stopped) {
        text.value ||= message;
        announce(error.message);
      }
    } finally {
      going = null;
      busy(false);
      signal.removeEventListener("abort", stop);
    }
  }

  function bodyOf(conversationId, message) {
    const body = { message, stream: true, conversationId };
    for (const name of ["system", "model"]) if (here[name].trim()) body[name] = here[name];
    for (const name of ["temperature", "max_tokens"]) if (here[name]) body[name] = Number(here[name]);
    if (here.thinking) body.thinking = here.thinking === "off" ? false : here.thinking;
    return body;
  }

  function busy(now) {
    button.replaceChildren(icon(now ? "stop" : "send"), h("span", { class: "unseen" }, now ? "Stop" : "Send"));
    if (!now) text.focus({ preventScroll: true });
  }

  const nearEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_PX;
  const toEnd = () => {
    log.scrollTop = log.scrollHeight;
  };

  /** Changes the conversation, and follows its end unless the user has scrolled away from it. */
  function following(change) {
    const follows = nearEnd();
    change();
    if (follows) toEnd();
  }

  function begin() {
    going?.abort();
    keep({ id: null, system: "" });
    system.value = "";
    threads.mark(null);
    empty();
  }

  function empty() {
    const ideas = IDEAS.map((idea) =>
      h(
        "button",
        {
          class: "button little",
          type: "button",
          onclick: () => {
            text.value = idea;
            form.requestSubmit();
          },
        },
        idea,
      ),
    );
    log.replaceChildren(
      h(
        "div",
        { class: "empty" },
        icon("chat"),
        h("h2", {}, "A new conversation"),
        h("p", {}, "The model sees all earlier messages of the conversation. Try:"),
        h("div", { class: "row" }, ideas),
      ),
    );
  }

  async function open(thread) {
    going?.abort();
    keep({ id: thread.conversationId });
    threads.mark(here.id);
    try {
      const whole = await get(pathOf(thread), { signal });
      if (here.id !== whole.conversationId) return; // the user has opened another conversation meanwhile
      keep({ system: whole.system ?? "" });
      system.value = here.system;
      if ([...model.options].some(({ value }) => value === whole.model)) model.value = whole.model;
      keep({ model: model.value });
      log.replaceChildren(...whole.messages.map(turn));
      toEnd();
    } catch (error) {
      if (error.code !== 404) throw error;
      threads.drop(thread); // deleted elsewhere, or never stored because its first reply was canceled
      begin();
    }
  }

  async function load() {
    const last = here.id; // the conversation of the last visit
    const { models } = await get("/api/models", { signal });
    const chatModels = models.filter(({ type, state }) => type === "chat" && state !== "incomplete");
    if (!chatModels.some(({ name }) => name === here.model)) keep({ model: "" });
    const entries = chatModels.map(({ name, default: first }) => [name, `${name}${first ? " (default)" : ""}`]);
    options(model, entries, here.model || chatModels.find((entry) => entry.default)?.name);
    if (!chatModels.length)
      form.prepend(h("p", { class: "note warn" }, "There is no chat model. Add one in the Models view."));
    await threads.load();
    if (last && here.id === last && !going) await open({ conversationId: last }); // unless the user has sent a message
  }

  empty();
  load().catch(complain);
  return [
    h(
      "header",
      {},
      h("div", {}, h("h1", { tabindex: "-1" }, "Chat")),
      h(
        "button",
        {
          class: "button",
          type: "button",
          onclick: () => {
            begin();
            text.focus();
          },
        },
        icon("plus"),
        "New conversation",
      ),
    ),
    h(
      "div",
      { class: "talk" },
      threads.element,
      h("section", { class: "thread-view", "aria-label": "Messages" }, log, form),
    ),
  ];
}

/** The page chooses the id itself, so that the conversation can continue after its first reply was canceled. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `conv_${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
