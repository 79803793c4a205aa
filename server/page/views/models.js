/** Models: what there is, what is in memory, and for admins: load, unload, pin, add, pull, remove. */

import { announce, complain, toast } from "../announce.js";
import { get, post, remove } from "../api.js";
import { confirm, dialog } from "../dialog.js";
import { field, h, options } from "../dom.js";
import { every } from "../follow.js";
import { bytes, count, when } from "../format.js";
import { icon } from "../icons.js";
import { session } from "../session.js";

const EVERY_MS = 1500;
const STATES = { available: "On disk", loading: "Loading", resident: "In memory", parked: "Parked in RAM", failed: "Failed" };
const KINDS = { image: "Images", video: "Video", chat: "Chat" };
const MERGING = { on: "batches jobs", off: "one job at a time" };

export default function models({ signal }) {
  const list = h("div", { class: "models" });
  const pulls = h("div", { class: "stack" });
  let drawn = "";

  async function look() {
    const [{ models: found }, pulling] = await Promise.all([get("/api/models", { signal }), session.admin ? getPulls(signal) : []]);
    drawPulls(pulls, pulling, look);
    const now = JSON.stringify(found);
    if (now === drawn) return;
    drawn = now;
    const focused = document.activeElement?.dataset?.act;
    list.replaceChildren(...(found.length ? groups(found, act) : [empty()]));
    if (focused) list.querySelector(`[data-act="${CSS.escape(focused)}"]`)?.focus();
  }

  async function act(model, verb) {
    try {
      if (verb === "remove") {
        if (!(await confirm(`Remove ${model.name}?`, "It is taken out of the catalogue. Jobs under way finish; files outside the server's own folder stay.", "Remove"))) return;
        await remove(`/api/models/${model.name}`);
      } else {
        await post(`/api/models/${model.name}/${verb}`);
      }
      announce(`${model.name}: ${verb}`);
      await look();
    } catch (error) {
      complain(error);
    }
  }

  every(EVERY_MS, signal, look, complain);
  return [
    h("header", {}, h("div", {}, h("h1", { tabindex: "-1" }, "Models"), session.admin ? null : h("p", {}, "Loading and changing them takes a key with the admin scope.")),
      session.admin ? h("div", { class: "row" },
        h("button", { class: "button", type: "button", onclick: () => add().then(look) }, icon("plus"), "Add"),
        h("button", { class: "button main-one", type: "button", onclick: () => pull().then(look) }, icon("download"), "Pull")) : null),
    h("div", { class: "stack" }, pulls, list),
  ];
}

function empty() {
  return h("div", { class: "empty" }, icon("models"), h("h2", {}, "No model yet"), h("p", {}, "Put a checkpoint folder into the models folder of the server, or pull one."));
}

function groups(found, act) {
  return Object.entries(KINDS).map(([type, title]) => {
    const mine = found.filter((model) => model.type === type);
    return mine.length ? h("section", { class: "card" }, h("h2", {}, title), h("ul", { class: "lines" }, mine.map((model) => line(model, act)))) : null;
  }).filter(Boolean);
}

function line(model, act) {
  const { defaults, limits } = model;
  const told = [
    model.dtype,
    defaults.width && `${defaults.width} × ${defaults.height}`,
    defaults.numFrames && count(defaults.numFrames, "frame"),
    defaults.steps && count(defaults.steps, "step"),
    model.type === "chat" && limits.contextTokens && `${limits.contextTokens.toLocaleString()} tokens of context`,
    MERGING[model.merging],
  ].filter(Boolean);
  const idle = model.state === "failed" && model.retryInSeconds ? `could not be loaded, tried again in ${model.retryInSeconds} s` : model.idleUnloadAt ? `leaves memory at ${when(model.idleUnloadAt)} if nobody asks` : model.pinned ? "stays in memory" : "";
  const button = (verb, text, picture, kind = "") => h("button", { class: `button little ${kind}`, type: "button", "data-act": `${model.name}/${verb}`, "aria-label": `${text} ${model.name}`, onclick: () => act(model, verb) }, picture ? icon(picture) : null, text);
  return h("li", {},
    h("div", { class: "grow" },
      h("div", { class: "row" }, h("h3", {}, model.name), h("span", { class: `chip ${model.state}` }, STATES[model.state] ?? model.state), model.default ? h("span", { class: "chip" }, "default") : null, model.pinned ? h("span", { class: "chip" }, "pinned") : null, model.running ? h("span", { class: "chip processing" }, count(model.running, "job")) : null),
      h("p", { class: "soft small" }, [bytes(model.bytes), ...told].join(" · ")),
      idle ? h("p", { class: "soft small" }, idle) : null),
    session.admin ? h("div", { class: "row" },
      model.state === "resident" ? button("unload", "Unload") : button("load", "Load"),
      model.pinned ? button("unpin", "Unpin", "pin") : button("pin", "Pin", "pin"),
      button("remove", "Remove", null, "plain risky")) : null);
}

async function getPulls(signal) {
  return (await get("/api/models/pulls", { signal })).pulls;
}

function drawPulls(place, pulls, look) {
  const newest = [...new Map(pulls.toReversed().map((one) => [one.source, one])).values()];
  const shown = newest.filter(({ state }) => ["queued", "downloading", "failed"].includes(state));
  place.hidden = !shown.length;
  place.replaceChildren(...(shown.length ? [h("section", { class: "card" }, h("h2", {}, "On their way"), h("ul", { class: "jobs" }, shown.map((one) => {
    const total = one.totalBytes ?? 0;
    const done = one.doneBytes ?? 0;
    const bar = h("span");
    if (total) bar.style.width = `${(done / total) * 100}%`;
    const failed = one.state === "failed";
    return h("li", {},
      h("div", { class: "row" }, h("b", { class: "grow" }, one.source), failed
        ? h("button", { class: "button little", type: "button", onclick: () => post("/api/models/pull", { source: one.source, name: one.model }).then(look, complain) }, "Try again")
        : h("button", { class: "button plain little risky", type: "button", onclick: () => post(`/api/models/pulls/${one.id}/cancel`).then(look, complain) }, "Cancel")),
      failed ? h("p", { class: "note bad" }, one.error ?? "It failed.") : h("div", { class: `meter ${total ? "" : "unknown"}`, role: "progressbar", "aria-label": `Pulling ${one.source}`, "aria-valuenow": total ? Math.round((done / total) * 100) : null }, bar),
      failed ? null : h("p", { class: "soft small" }, total ? `${bytes(done)} of ${bytes(total)}` : one.doing || "Looking"));
  })))] : []));
}

function ask(title, lead, fields, verb, send) {
  return dialog(title, (close) => {
    const problem = h("p", { class: "note bad", role: "alert", hidden: true });
    const button = h("button", { class: "button main-one", type: "submit" }, verb);
    async function submit(event) {
      event.preventDefault();
      button.disabled = true;
      problem.hidden = true;
      const body = Object.fromEntries([...new FormData(event.target)].filter(([, value]) => value !== "").map(([name, value]) => [name, value === "on" ? true : value]));
      try {
        close(await send(body));
      } catch (error) {
        problem.textContent = error.message;
        problem.hidden = false;
        button.disabled = false;
      }
    }
    return h("form", { class: "stack", onsubmit: submit }, h("p", { class: "soft" }, lead), fields, problem,
      h("div", { class: "actions" }, h("button", { class: "button", type: "button", onclick: () => close() }, "Cancel"), button));
  });
}

const naming = () => [
  field("Name", h("input", { class: "input", name: "name", placeholder: "from the source", pattern: "[a-z0-9][a-z0-9._\\-]{0,63}" })),
  field("Type", options(h("select", { class: "input", name: "type" }), [["", "Seen from the files"], ["image", "Image"], ["video", "Video"], ["chat", "Chat"]])),
];

function add() {
  return ask("Add a model", "A folder or file on the server's disk, or something it has already fetched.",
    [field("Source", h("input", { class: "input mono", name: "source", required: true, placeholder: "/models/sdxl or owner/name", autofocus: true })), ...naming(), h("label", { class: "check" }, h("input", { type: "checkbox", name: "default" }), "Use it when a request names no model")],
    "Add", (body) => post("/api/models", body)).then((made) => made && toast("Added."));
}

function pull() {
  return ask("Pull a model", "A hub id like owner/name, or an address of a safetensors file. The server fetches it; this page may be closed meanwhile.",
    [field("Source", h("input", { class: "input mono", name: "source", required: true, placeholder: "owner/name", autofocus: true })), ...naming()],
    "Pull", (body) => post("/api/models/pull", body)).then((made) => made && toast("On its way."));
}
