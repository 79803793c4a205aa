/** The Keys view, for admins: lists keys with today's usage, creates and revokes keys. */

import { complain, copy, toast } from "../announce.js";
import { get, post, remove } from "../api.js";
import { confirm, dialog } from "../dialog.js";
import { field, h, options } from "../dom.js";
import { every } from "../follow.js";
import { when } from "../format.js";
import { icon } from "../icons.js";
import { session } from "../session.js";

const EVERY_MS = 5000;
const KINDS = { images: "Images", videos: "Videos", chats: "Messages" };

export default function keys({ signal }) {
  const body = h("tbody");
  const revoked = h("ul", { class: "jobs" });
  const past = h("details", { class: "card", hidden: true }, h("summary", {}, "Revoked"), revoked);

  async function refresh() {
    const reply = await get("/api/keys", { signal });
    const focused = document.activeElement?.dataset?.key;
    const live = reply.keys.filter((key) => !key.revokedAt);
    body.replaceChildren(...live.map(row));
    const gone = reply.keys.filter((key) => key.revokedAt);
    past.hidden = !gone.length;
    revoked.replaceChildren(
      ...gone
        .reverse()
        .map((key) =>
          h(
            "li",
            {},
            h("span", {}, key.name, h("span", { class: "soft" }, ` · ${key.hint}… · ${when(key.revokedAt)}`)),
          ),
        ),
    );
    if (focused) body.querySelector(`[data-key="${focused}"]`)?.focus();
  }

  function row(key) {
    const mine = key.id === session.me.id;
    return h(
      "tr",
      {},
      h(
        "th",
        { scope: "row" },
        key.name,
        mine ? h("span", { class: "chip" }, "yours") : null,
        h("div", { class: "soft mono" }, `${key.hint}…`),
      ),
      h(
        "td",
        { "data-label": "Plan" },
        key.plan,
        key.scopes.includes("admin") ? h("div", {}, h("span", { class: "chip" }, "admin")) : null,
      ),
      Object.keys(KINDS).map((kind) => h("td", { "data-label": KINDS[kind] }, usage(key.usage[kind], KINDS[kind]))),
      h("td", { class: "soft", "data-label": "Created" }, when(key.createdAt)),
      h(
        "td",
        { class: "numbers" },
        h(
          "button",
          {
            class: "button little risky",
            type: "button",
            "data-key": key.id,
            "aria-label": `Revoke ${key.name}`,
            onclick: () => revoke(key, mine),
          },
          "Revoke",
        ),
      ),
    );
  }

  async function revoke(key, mine) {
    const text = mine
      ? "This page is signed in with this key: you will be signed out."
      : "The server refuses this key within a second. This cannot be undone.";
    if (!(await confirm(`Revoke ${key.name}?`, text, "Revoke"))) return;
    try {
      await remove(`/api/keys/${key.id}`);
      toast(`${key.name} is revoked.`);
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
        h("h1", { tabindex: "-1" }, "Keys"),
        h("p", {}, "Create one key per person or program. Usage is counted per UTC day."),
      ),
      h(
        "button",
        { class: "button main-one", type: "button", onclick: () => create().then(refresh).catch(complain) },
        icon("plus"),
        "New key",
      ),
    ),
    h(
      "div",
      { class: "stack" },
      h(
        "section",
        { class: "card" },
        h(
          "div",
          { class: "table", tabindex: "0", role: "region", "aria-label": "Keys" },
          h(
            "table",
            { class: "folds" },
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                ["Name", "Plan", ...Object.values(KINDS).map((kind) => `${kind} today`), "Created"].map((name) =>
                  h("th", { scope: "col" }, name),
                ),
                h("th", { scope: "col" }, h("span", { class: "unseen" }, "Actions")),
              ),
            ),
            body,
          ),
        ),
      ),
      past,
    ),
  ];
}

export function usage({ used, limit }, label) {
  const bar = h("span");
  if (limit) bar.style.width = `${Math.min(100, (used / limit) * 100)}%`;
  return h(
    "div",
    { class: "usage" },
    h(
      "span",
      {},
      used.toLocaleString(),
      h("span", { class: "soft" }, limit === null ? ", no limit" : ` of ${limit.toLocaleString()}`),
    ),
    limit === null
      ? null
      : h("div", { class: "meter", role: "img", "aria-label": `${label}: ${used} of ${limit}` }, bar),
  );
}

async function create() {
  const { plans } = await get("/api/keys");
  const key = await dialog("New key", (close) => {
    const problem = h("p", { class: "note bad", role: "alert", hidden: true });
    const name = h("input", {
      class: "input",
      name: "name",
      required: true,
      maxlength: 100,
      placeholder: "Anna, or the shop's website",
      autofocus: true,
      autocomplete: "off",
    });
    const plan = options(
      h("select", { class: "input", name: "plan" }),
      Object.entries(plans).map(([name, limits]) => [name, `${name}: ${described(limits)}`]),
    );
    const admin = h("input", { type: "checkbox", name: "admin" });
    const button = h("button", { class: "button main-one", type: "submit" }, "Create key");
    async function submit(event) {
      event.preventDefault();
      button.disabled = true;
      try {
        close(
          await post("/api/keys", {
            name: name.value,
            plan: plan.value,
            scopes: admin.checked ? ["use", "admin"] : ["use"],
          }),
        );
      } catch (error) {
        problem.textContent = error.message;
        problem.hidden = false;
        button.disabled = false;
      }
    }
    return h(
      "form",
      { class: "stack", onsubmit: submit },
      field("Name", name),
      field("Plan", plan),
      h("label", { class: "check" }, admin, "May also manage keys and models"),
      problem,
      h(
        "div",
        { class: "actions" },
        h("button", { class: "button", type: "button", onclick: () => close() }, "Cancel"),
        button,
      ),
    );
  });
  if (!key) return;
  await dialog(`The key ${key.name}`, (close) => [
    h("p", {}, "Copy the key now. The server stores only a hash, so that the key is never shown again."),
    h(
      "div",
      { class: "secret" },
      h("code", { "data-new-key": "" }, key.key),
      h("button", { class: "button", type: "button", onclick: () => copy(key.key, "Key") }, icon("copy"), "Copy"),
    ),
    h(
      "div",
      { class: "actions" },
      h("button", { class: "button main-one", type: "button", onclick: () => close() }, "Done"),
    ),
  ]);
}

function described(limits) {
  return Object.values(limits).every((limit) => limit === null)
    ? "without limit"
    : Object.entries(KINDS)
        .map(([kind, label]) => `${limits[kind] ?? "any"} ${label.toLowerCase()}`)
        .join(", ");
}
