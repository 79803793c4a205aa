/** The Models view: all models with their state, and for admins load, unload, pin, add, pull and remove. */

import { announce, complain } from "../announce.js";
import { get, post, remove } from "../api.js";
import { confirm } from "../dialog.js";
import { h } from "../dom.js";
import { every } from "../follow.js";
import { bytes, count, when } from "../format.js";
import { icon } from "../icons.js";
import { add, pull } from "../parts/model_dialogs.js";
import { drawPulls, getPulls } from "../parts/pulls.js";
import { session } from "../session.js";

const EVERY_MS = 1500;
const SOON_MS = 200;
const STATES = {
  available: "On disk",
  loading: "Loading",
  resident: "In memory",
  parked: "Parked in RAM",
  failed: "Failed",
  incomplete: "Incomplete",
};
const KINDS = { image: "Images", video: "Video", chat: "Chat", embedding: "Embeddings", adapter: "Adapters" };
const ADAPTERS = {
  controlnet: "ControlNet",
  t2i_adapter: "T2I-Adapter",
  ip_adapter: "IP-Adapter",
  upscaler: "upscaler",
  vae: "VAE",
  textual_inversion: "textual inversion",
};
const TAKES = {
  image: "pictures",
  mask: "masks",
  images: "references",
  last_image: "last frames",
  video: "clips",
  control: "maps",
};
const MERGING = { on: "batches jobs", off: "one job at a time" };

export default function models({ signal }) {
  const list = h("div", { class: "models" });
  const pulls = h("div", { class: "stack" });
  let drawn = "";

  async function refresh() {
    const [{ models: listed, refused }, pulling] = await Promise.all([
      get("/api/models", { signal }),
      session.admin ? getPulls(signal) : [],
    ]);
    drawPulls(pulls, pulling, refresh);
    const found = listed.filter(({ state }) => state !== "incomplete");
    const now = JSON.stringify([found, refused]);
    if (now === drawn) return;
    drawn = now;
    const focused = document.activeElement?.dataset?.act;
    list.replaceChildren(...(found.length ? groups(found, act) : [empty()]), ...notServed(refused));
    if (focused) list.querySelector(`[data-act="${CSS.escape(focused)}"]`)?.focus();
  }

  async function act(model, verb) {
    try {
      if (verb === "remove") {
        if (
          !(await confirm(
            `Remove ${model.name}?`,
            "The model leaves the catalogue. Running jobs finish. Files outside the server's own folder are kept.",
            "Remove",
          ))
        )
          return;
        await remove(`/api/models/${model.name}`);
      } else if (verb === "retry") {
        await post(`/api/models/${model.name}/unload`); // ends the time for which it is not tried again
        await loadSoon(model.name);
      } else {
        await post(`/api/models/${model.name}/${verb}`);
      }
      announce(`${model.name}: ${verb}`);
      await refresh();
    } catch (error) {
      complain(error);
    }
  }

  every(EVERY_MS, signal, refresh, complain);
  return [
    h(
      "header",
      {},
      h(
        "div",
        {},
        h("h1", { tabindex: "-1" }, "Models"),
        session.admin ? null : h("p", {}, "Loading and changing models needs a key with the admin scope."),
      ),
      session.admin
        ? h(
            "div",
            { class: "row" },
            h("button", { class: "button", type: "button", onclick: () => add().then(refresh) }, icon("plus"), "Add"),
            h(
              "button",
              { class: "button main-one", type: "button", onclick: () => pull().then(refresh) },
              icon("download"),
              "Pull",
            ),
          )
        : null,
    ),
    h("div", { class: "stack" }, pulls, list),
  ];
}

function empty() {
  return h(
    "div",
    { class: "empty" },
    icon("models"),
    h("h2", {}, "No model yet"),
    h("p", {}, "Put a checkpoint folder into the models folder of the server, or pull one."),
  );
}

/** Loads a model as soon as its state says that it may be, which is a moment after it was unloaded. */
async function loadSoon(name, tries = 10) {
  try {
    await post(`/api/models/${name}/load`);
  } catch (error) {
    if (error.status !== 502 || tries === 0) throw error;
    await new Promise((resolve) => setTimeout(resolve, SOON_MS));
    await loadSoon(name, tries - 1);
  }
}

function groups(found, act) {
  return Object.entries(KINDS)
    .map(([type, title]) => {
      const mine = found.filter((model) => model.type === type);
      return mine.length
        ? h(
            "section",
            { class: "card" },
            h("h2", {}, title),
            h(
              "ul",
              { class: "lines" },
              mine.map((model) => line(model, act)),
            ),
          )
        : null;
    })
    .filter(Boolean);
}

/** The name of a model, its state, and further chips. */
function heading(model, ...chips) {
  const state = h("span", { class: `chip ${model.state}` }, STATES[model.state] ?? model.state);
  return h("div", { class: "row" }, h("h3", {}, model.name), state, ...chips);
}

/** What was found and cannot be served, with the reason; it is served as soon as that is mended. */
function notServed(refused) {
  if (!refused.length) return [];
  const lines = refused.map((model) =>
    h(
      "li",
      {},
      h(
        "div",
        { class: "grow" },
        heading(model),
        h("p", { class: "soft small" }, model.reason),
        model.source ? h("p", { class: "soft small mono" }, model.source) : null,
      ),
    ),
  );
  return [h("section", { class: "card" }, h("h2", {}, "Not served"), h("ul", { class: "lines" }, lines))];
}

function line(model, act) {
  const { defaults, limits } = model;
  const borrowed = model.type === "adapter"; // it is never loaded by itself
  const takes = ["image", "video"].includes(model.type)
    ? model.inputs.map((name) => TAKES[name]).filter(Boolean)
    : [];
  const facts = [
    model.dtype,
    defaults.width && `${defaults.width} × ${defaults.height}`,
    defaults.numFrames && count(defaults.numFrames, "frame"),
    defaults.steps && count(defaults.steps, "step"),
    model.type === "chat" && limits.contextTokens && `${limits.contextTokens.toLocaleString()} tokens of context`,
    model.embedding && `vectors of ${count(model.embedding.dimensions, "number")}`,
    model.embedding && limits.contextTokens && `texts of up to ${count(limits.contextTokens, "token")}`,
    ...adapterFacts(model),
    takes.length && `takes ${takes.join(", ")}`,
    model.type === "adapter" ? null : MERGING[model.merging],
  ].filter(Boolean);
  const idle =
    model.state === "failed" && model.retryInSeconds
      ? `could not be loaded, tried again in ${model.retryInSeconds} s`
      : model.idleUnloadAt
        ? `unloads at ${when(model.idleUnloadAt)} if idle`
        : model.pinned
          ? "stays in memory"
          : "";
  const button = (verb, text, symbol, kind = "") =>
    h(
      "button",
      {
        class: `button little ${kind}`,
        type: "button",
        "data-act": `${model.name}/${verb}`,
        "aria-label": `${text} ${model.name}`,
        onclick: () => act(model, verb),
      },
      symbol ? icon(symbol) : null,
      text,
    );
  return h(
    "li",
    {},
    h(
      "div",
      { class: "grow" },
      heading(
        model,
        model.default ? h("span", { class: "chip" }, "default") : null,
        model.pinned ? h("span", { class: "chip" }, "pinned") : null,
        model.running ? h("span", { class: "chip processing" }, count(model.running, "job")) : null,
      ),
      h("p", { class: "soft small" }, [bytes(model.bytes), ...facts].join(" · ")),
      idle ? h("p", { class: "soft small" }, idle) : null,
      model.failure ? h("p", { class: "note bad" }, model.failure.message) : null,
      model.failure?.detail ? h("p", { class: "soft small mono" }, model.failure.detail) : null,
      model.notes.map((text) => h("p", { class: "soft small" }, text)),
    ),
    session.admin
      ? h(
          "div",
          { class: "row" },
          borrowed ? null : loadButton(model, button),
          borrowed ? null : model.pinned ? button("unpin", "Unpin", "pin") : button("pin", "Pin", "pin"),
          button("remove", "Remove", null, "plain risky"),
        )
      : null,
  );
}

function loadButton({ state, retryInSeconds }, button) {
  if (state === "resident") return button("unload", "Unload");
  return retryInSeconds ? button("retry", "Try again") : button("load", "Load");
}

/** What an adapter is for. */
function adapterFacts({ adapter }) {
  if (!adapter) return [];
  return [
    ADAPTERS[adapter.kind],
    adapter.scale && `${adapter.scale}×`,
    adapter.types.join(", "),
    adapter.kind !== "upscaler" && `for ${adapter.fits.join(", ") || "no model here"}`,
    adapter.lentTo.length && `lent to ${adapter.lentTo.join(", ")}`,
  ];
}
