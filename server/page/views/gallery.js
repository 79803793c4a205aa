/** The Gallery view: all jobs of this key that the server still stores. */

import { complain } from "../announce.js";
import { get } from "../api.js";
import { dialog } from "../dialog.js";
import { field, h, options } from "../dom.js";
import { ended, follow } from "../follow.js";
import { icon } from "../icons.js";
import { jobStage, thumb } from "../parts/job.js";

const PAGE = 36;
const filter = { status: "", type: "" };

export default function gallery({ signal }) {
  const grid = h("ul", { class: "grid" });
  const more = h("button", { class: "button", type: "button", hidden: true, onclick: () => load(true) }, "Show more");
  const status = options(
    h("select", {
      class: "input",
      onchange: () => {
        filter.status = status.value;
        load();
      },
    }),
    [
      ["", "All"],
      ["completed", "Done"],
      ["processing", "Running"],
      ["queued", "Waiting"],
      ["failed", "Failed"],
      ["canceled", "Canceled"],
    ],
    filter.status,
  );
  const type = options(
    h("select", {
      class: "input",
      onchange: () => {
        filter.type = type.value;
        load();
      },
    }),
    [
      ["", "Images and videos"],
      ["image", "Images"],
      ["video", "Videos"],
    ],
    filter.type,
  );
  const nothing = h("div", {});
  const models = get("/api/models", { signal }).then((reply) =>
    reply.models.filter(({ state }) => state !== "incomplete"),
  );
  models.catch(complain);
  let cursor = null;
  let latest = 0; // number of the latest request; replies to earlier ones are dropped

  async function load(further = false) {
    const mine = ++latest;
    const query = new URLSearchParams({ limit: PAGE });
    for (const [name, value] of Object.entries(filter)) if (value) query.set(name, value);
    if (further) query.set("cursor", cursor);
    try {
      const reply = await get(`/api/jobs?${query}`, { signal });
      if (mine !== latest) return;
      if (!further) grid.replaceChildren();
      grid.append(...reply.jobs.map(tile));
      cursor = reply.nextCursor;
      more.hidden = !cursor;
      nothing.replaceChildren(...(grid.children.length ? [] : [empty()]));
      grid.setAttribute("aria-busy", "false");
    } catch (error) {
      complain(error);
    }
  }

  function tile(job) {
    const item = h("li", {});
    const show = (now) =>
      item.replaceChildren(
        thumb(now, () => open(now, item)),
        h("p", { class: "caption" }, now.prompt ?? "Prompt deleted"),
      );
    show(job);
    if (!ended(job)) follow(job.jobId, show, signal).catch(() => {}); // deleted: the next load of the list shows that
    return item;
  }

  async function open(job, item) {
    const watching = new AbortController();
    await dialog(
      job.type === "image" ? "Image" : "Video",
      (close) => {
        const stage = jobStage(job, {
          models,
          leave: close,
          changed: () => {
            close();
            load();
          },
          gone: () => {
            close();
            item.remove();
          },
        });
        if (!ended(job)) follow(job.jobId, stage.update, watching.signal).catch(() => {}); // closed or deleted
        return stage.element;
      },
      { large: true },
    );
    watching.abort();
    item.querySelector("button")?.focus();
    if (!grid.children.length) load();
  }

  function empty() {
    const any = !filter.status && !filter.type;
    return h(
      "div",
      { class: "empty" },
      icon("gallery"),
      h("h2", {}, any ? "No results yet" : "No results for this filter"),
      h(
        "p",
        {},
        any ? "Results are kept here for a day, with their settings." : "Choose another filter to see the rest.",
      ),
      any
        ? h("div", { class: "row" }, h("a", { class: "button main-one", href: "#/create" }, "Create something"))
        : null,
    );
  }

  load();
  return [
    h(
      "header",
      {},
      h("div", {}, h("h1", { tabindex: "-1" }, "Gallery")),
      h("div", { class: "row filters" }, field("State", status), field("Kind", type)),
    ),
    grid,
    nothing,
    h("div", { class: "row more" }, more),
  ];
}
