/** The list of stored conversations: open, rename, delete. */

import { complain, toast } from "../announce.js";
import { get, patch, remove } from "../api.js";
import { confirm, dialog } from "../dialog.js";
import { field, h } from "../dom.js";
import { when } from "../format.js";
import { icon } from "../icons.js";

const PAGE = 30;

/** Returns the element, and functions for the Chat view. `on`: {open(thread), gone(thread)} */
export function threadList(on, signal) {
  let threads = []; // the most recent first
  let cursor = null;
  let current = null; // id of the open conversation
  const list = h("ul", { class: "threads" });
  const more = h(
    "button",
    { class: "button plain little", type: "button", hidden: true, onclick: () => load(true).catch(complain) },
    "Show more",
  );
  const element = h("aside", { class: "thread-list", "aria-label": "Conversations" }, list, more);

  async function load(further = false) {
    const reply = await get(`/api/conversations?limit=${PAGE}${further ? `&cursor=${cursor}` : ""}`, { signal });
    const known = new Set(further ? threads.map(({ conversationId }) => conversationId) : []);
    threads = [
      ...(further ? threads : []),
      ...reply.conversations.filter(({ conversationId }) => !known.has(conversationId)),
    ];
    cursor = reply.nextCursor;
    more.hidden = !cursor;
    draw();
  }

  function draw() {
    list.replaceChildren(
      ...threads.map((thread) =>
        h(
          "li",
          {},
          h(
            "button",
            {
              class: "thread",
              type: "button",
              title: `${thread.title}\n${when(thread.updatedAt)}`,
              "aria-current": thread.conversationId === current ? "true" : null,
              onclick: () => on.open(thread),
            },
            thread.title,
          ),
          button("pen", `Rename “${thread.title}”`, "Rename", () => rename(thread)),
          button("close", `Forget “${thread.title}”`, "Forget", () => forget(thread)),
        ),
      ),
    );
  }

  const button = (name, label, title, onclick) =>
    h("button", { class: "button plain little", type: "button", "aria-label": label, title, onclick }, icon(name));

  async function rename(thread) {
    const title = await dialog("Rename this conversation", (close) => {
      const text = h("input", {
        class: "input",
        name: "title",
        maxlength: 100,
        required: true,
        autofocus: true,
        value: thread.title,
      });
      return h(
        "form",
        {
          class: "stack",
          onsubmit: (event) => {
            event.preventDefault();
            close(text.value.trim());
          },
        },
        field("Name", text),
        h("div", { class: "actions" }, h("button", { class: "button main-one", type: "submit" }, "Rename")),
      );
    });
    if (!title) return;
    try {
      Object.assign(thread, await patch(pathOf(thread), { title }));
      draw();
    } catch (error) {
      complain(error);
    }
  }

  async function forget(thread) {
    if (
      !(await confirm(
        "Forget this conversation?",
        `“${thread.title}” is deleted from the server. This cannot be undone.`,
        "Forget",
      ))
    )
      return;
    try {
      await remove(pathOf(thread));
      toast("Forgotten.");
    } catch (error) {
      if (error.code !== 404) return complain(error); // 404: never stored, or deleted already
    }
    drop(thread);
    on.gone(thread);
  }

  function drop(thread) {
    threads = threads.filter((other) => other !== thread);
    draw();
  }

  return {
    element,
    load,
    drop,
    mark(id) {
      current = id;
      draw();
    },
    /** Moves a conversation with a new message to the top. */
    raise(thread) {
      const known = threads.find(({ conversationId }) => conversationId === thread.conversationId);
      threads = [
        { ...thread, ...known, updatedAt: new Date().toISOString() },
        ...threads.filter((other) => other !== known),
      ];
      draw();
    },
  };
}

export const pathOf = ({ conversationId }) => `/api/conversations/${conversationId}`;
