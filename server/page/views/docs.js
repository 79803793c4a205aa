/** The API view: chapters with examples that can be run with the signed-in key, and all routes of this server. */

import { complain, copy } from "../announce.js";
import { ApiError, get, post } from "../api.js";
import { choice, h } from "../dom.js";
import { icon } from "../icons.js";
import { CHAPTERS, LANGUAGES } from "../parts/document.js";
import { session } from "../session.js";

let language = "curl";
let shown = false; // whether the examples show the whole key
let lastJob = "job_…";

export default function docs({ signal }) {
  const codes = [];
  const redraw = () => codes.forEach((draw) => draw());
  const reveal = h("input", {
    type: "checkbox",
    checked: shown,
    onchange: () => {
      shown = reveal.checked;
      redraw();
    },
  });
  const reference = h("div", { class: "stack" });
  const links = [...CHAPTERS.map(({ id, title }) => [id, title]), ["reference", "Every route"]];
  get("/api/openapi.json", { signal }).then((document) => reference.replaceChildren(...routes(document)), complain);
  return [
    h(
      "header",
      {},
      h(
        "div",
        {},
        h("h1", { tabindex: "-1" }, "API"),
        h("p", {}, "Base URL ", h("code", {}, `${location.origin}/api`)),
      ),
      h("label", { class: "check" }, reveal, "Show my key in the examples"),
    ),
    h(
      "div",
      { class: "doc" },
      h(
        "nav",
        { class: "toc", "aria-label": "Chapters" },
        links.map(([id, title]) =>
          h(
            "button",
            {
              class: "button plain little",
              type: "button",
              onclick: () => document.getElementById(`doc-${id}`).scrollIntoView({ behavior: "smooth" }),
            },
            title,
          ),
        ),
      ),
      h(
        "div",
        { class: "chapters" },
        h(
          "section",
          { class: "card stack" },
          h("h2", {}, "Authentication"),
          h("p", {}, "Send these headers with every request:"),
          block(
            codes,
            () => `Authorization: Bearer ${visibleKey()}\nContent-Type: application/json`,
            () => `Authorization: Bearer ${session.key}\nContent-Type: application/json`,
          ),
        ),
        choice(
          "language",
          "Examples in",
          Object.keys(LANGUAGES).map((name) => [name, name]),
          language,
          (value) => {
            language = value;
            redraw();
          },
        ),
        CHAPTERS.map((chapter) => section(chapter, codes, redraw)),
        h(
          "section",
          { class: "stack", id: "doc-reference" },
          h("h2", {}, "Every route"),
          h("p", { class: "soft" }, "As this server describes itself at ", h("code", {}, "/api/openapi.json"), "."),
          reference,
        ),
      ),
    ),
  ];
}

const visibleKey = () => (shown ? session.key : `${session.key.slice(0, 9)}…`);

function section({ id, title, text, fields, table, example, reply }, codes, redraw) {
  return h(
    "section",
    { class: "card stack", id: `doc-${id}` },
    h("h2", {}, title),
    example ? h("p", {}, h("span", { class: "verb" }, example.method), " ", h("code", {}, example.path)) : null,
    text.map((line) => h("p", {}, line)),
    fields
      ? grid(
          ["Parameter", "Type", "", "Description"],
          fields.map(([name, type, required, what]) => [
            h("code", {}, name),
            type,
            required ? "required" : "optional",
            what,
          ]),
        )
      : null,
    table ? grid(table[0], table.slice(1)) : null,
    example ? runnable(example, codes, redraw) : null,
    reply
      ? h(
          "div",
          { class: "stack tight" },
          h("p", { class: "label" }, id === "errors" ? "Error response" : "Response"),
          h("pre", { class: "code", tabindex: "0" }, JSON.stringify(reply, null, 2)),
        )
      : null,
  );
}

function grid(head, rows) {
  return h(
    "div",
    { class: "table", tabindex: "0", role: "region", "aria-label": head[0] },
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          head.map((name) => h("th", { scope: "col" }, name || h("span", { class: "unseen" }, "Needed"))),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            row.map((cell) => h("td", {}, cell)),
          ),
        ),
      ),
    ),
  );
}

/** Code with a button that copies it with the whole key. */
function block(codes, visible, whole, ...more) {
  const pre = h("pre", { class: "code", tabindex: "0" });
  const draw = () => {
    pre.textContent = visible();
  };
  codes.push(draw);
  draw();
  return h(
    "div",
    { class: "example" },
    pre,
    h(
      "div",
      { class: "row" },
      h(
        "button",
        { class: "button little", type: "button", onclick: () => copy(whole(), "Example") },
        icon("copy"),
        "Copy",
      ),
      more,
    ),
  );
}

function runnable(example, codes, redraw) {
  const request = () => ({ ...example, path: example.path.replace("{jobId}", lastJob) });
  const answer = h("pre", {
    class: "code",
    tabindex: "0",
    hidden: true,
    "aria-label": "The server's reply",
    role: "region",
  });
  const button = h("button", { class: "button little", type: "button", onclick: run }, icon("send"), "Run it here");

  async function run() {
    const { method, path, body } = request();
    button.disabled = true;
    let text;
    try {
      const reply = method === "GET" ? await get(path) : await post(path, body);
      if (reply.jobId) {
        lastJob = reply.jobId;
        redraw();
      }
      text = JSON.stringify(reply, null, 2);
    } catch (error) {
      text =
        error instanceof ApiError ? JSON.stringify({ error: error.message, code: error.code }, null, 2) : error.message;
    }
    answer.textContent = text;
    answer.hidden = false;
    button.disabled = false;
  }

  const whole = (key) => LANGUAGES[language](request(), location.origin, key);
  return h(
    "div",
    { class: "stack tight" },
    block(
      codes,
      () => whole(visibleKey()),
      () => whole(session.key),
      button,
    ),
    answer,
  );
}

function routes({ paths, components }) {
  return Object.entries(paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) => {
      const bodies = operation.requestBody?.content?.["application/json"]?.schema;
      const schemas = bodies ? (bodies.oneOf ?? [resolved(bodies, components)]) : [];
      const parameters = (operation.parameters ?? []).map(({ name, in: where, required, schema, description }) => [
        h("code", {}, name),
        where,
        required ? "required" : "optional",
        description ?? words(schema),
      ]);
      const statuses = Object.keys(operation.responses).join(", ");
      return h(
        "details",
        { class: "card route" },
        h("summary", {}, h("span", { class: "verb" }, method.toUpperCase()), " ", h("code", {}, path)),
        h(
          "div",
          { class: "stack" },
          operation.description ? h("p", {}, operation.description) : null,
          parameters.length ? grid(["Parameter", "In", "", "Description"], parameters) : null,
          schemas.map((schema) =>
            grid(
              [schema.title ?? "Body", "Type", "", "Must be"],
              Object.entries(schema.properties ?? {}).map(([name, field]) => [
                h("code", {}, name),
                types(field),
                schema.required?.includes(name) ? "required" : "optional",
                field.description ?? words(field),
              ]),
            ),
          ),
          h("p", { class: "soft small" }, `Statuses: ${statuses}`),
        ),
      );
    }),
  );
}

const resolved = (schema, components) => (schema.$ref ? components.schemas[schema.$ref.split("/").pop()] : schema);
const types = (schema) =>
  schema.anyOf
    ? schema.anyOf
        .map(types)
        .filter((type) => type !== "null")
        .join(" or ")
    : (schema.type ?? "");

function words(schema = {}) {
  const inner = schema.anyOf?.find(({ type }) => type !== "null") ?? schema;
  return inner.description ?? inner.enum?.join(", ") ?? (inner.const ? `"${inner.const}"` : "");
}
