/** The dialog in which a mask is painted over a picture, with a pointer, a finger or the keyboard. */

import { announce } from "../../announce.js";
import { dialog } from "../../dialog.js";
import { choice, field, h } from "../../dom.js";
import { icon } from "../../icons.js";
import { addressOf } from "../../uploads.js";
import { MaskCanvas } from "./mask_canvas.js";

const STEP = 0.02; // of an arrow key, as a fraction of the width
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const HELP = "Arrow keys move the brush, Space paints, Shift with an arrow paints a line, [ and ] change the brush.";

/** Resolves with the mask as a file, null for an empty one, or undefined when canceled. `before`: an earlier mask. */
export async function drawMask(picture, before) {
  const [image, earlier] = await Promise.all([load(picture), before ? load(before) : null]);
  return dialog("Draw a mask", (close) => editor(image, earlier, close), { large: true });
}

async function load(input) {
  const image = h("img", { alt: "", src: await addressOf(input.id) });
  await image.decode();
  return image;
}

function editor(image, earlier, close) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const canvas = h("canvas", { class: "paint" });
  const mask = new MaskCanvas(canvas, width, height);
  const ring = h("span", { class: "ring", "aria-hidden": "true" });
  const board = h(
    "div",
    { class: "board", tabindex: "0", role: "application", "aria-label": `Picture. ${HELP}` },
    h("img", { src: image.src, alt: "", draggable: "false" }),
    canvas,
    ring,
  );
  board.style.setProperty("--ratio", width / height);
  const size = h("input", { type: "range", name: "brush", min: 1, max: 40, value: 8, oninput: () => place() });
  const undo = button("reuse", "Undo", () => change(() => mask.undo(), "Undone"));
  const tall = height / width; // the height, where the width is 1
  let erases = false;
  let at = [0.5, tall / 2]; // the brush
  let go = null; // the stroke that is being painted

  function place(x = at[0], y = at[1]) {
    at = [Math.min(1, Math.max(0, x)), Math.min(tall, Math.max(0, y))];
    ring.style.setProperty("--x", at[0]);
    ring.style.setProperty("--y", at[1] / tall);
    ring.style.setProperty("--size", brush());
  }

  const brush = () => Number(size.value) / 100;

  function change(what, said) {
    what();
    undo.disabled = !mask.canUndo;
    if (said) announce(said);
  }

  function begin() {
    go = mask.stroke(brush(), erases);
    go(...at);
    undo.disabled = false;
  }

  function point(event) {
    const box = canvas.getBoundingClientRect();
    place((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.width);
  }

  board.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    board.setPointerCapture(event.pointerId);
    point(event);
    begin();
  });
  board.addEventListener("pointermove", (event) => {
    const all = event.getCoalescedEvents?.() ?? [];
    for (const each of go && all.length ? all : [event]) {
      point(each);
      go?.(...at);
    }
  });
  for (const type of ["pointerup", "pointercancel"])
    board.addEventListener(type, () => {
      go = null;
    });
  board.addEventListener("keydown", (event) => {
    const [dx, dy] = ARROWS[event.key] ?? [];
    if (dx !== undefined) {
      if (event.shiftKey) begin();
      place(at[0] + dx * STEP, at[1] + dy * STEP);
      if (event.shiftKey) go(...at);
    } else if (event.key === " " || event.key === "Enter") begin();
    else if (event.key === "[" || event.key === "]") {
      size.value = Number(size.value) + (event.key === "]" ? 2 : -2);
      place();
    } else if (event.key === "z" && (event.ctrlKey || event.metaKey) && mask.canUndo) undo.click();
    else return;
    go = null;
    event.preventDefault();
  });

  if (earlier) mask.load(earlier);
  undo.disabled = !mask.canUndo;
  place();
  return [
    h("p", { class: "soft small" }, "Paint what is to be made anew; the rest stays."),
    h(
      "div",
      { class: "tools" },
      choice(
        "tool",
        "Tool",
        [
          ["paint", "Paint", icon("pen")],
          ["erase", "Erase", icon("eraser")],
        ],
        "paint",
        (value) => {
          erases = value === "erase";
        },
      ),
      field("Brush size", size),
      h(
        "div",
        { class: "row" },
        undo,
        button("invert", "Invert", () => change(() => mask.invert(), "Inverted")),
        button("trash", "Clear", () => change(() => mask.clear(), "Cleared")),
      ),
    ),
    h("div", { class: "desk" }, board),
    h(
      "div",
      { class: "actions" },
      h("button", { class: "button", type: "button", onclick: () => close() }, "Cancel"),
      h(
        "button",
        {
          class: "button main-one",
          type: "button",
          onclick: async () => close(mask.isEmpty ? null : await mask.file()),
        },
        "Use mask",
      ),
    ),
  ];
}

const button = (name, text, onclick) =>
  h("button", { class: "button little", type: "button", onclick }, icon(name), text);
