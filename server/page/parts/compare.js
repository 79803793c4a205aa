/** A result beside the picture that it was made from: a slider uncovers one or the other. */

import { toast } from "../announce.js";
import { h } from "../dom.js";
import { icon } from "../icons.js";
import { addressOf } from "../uploads.js";

const FITS = { crop: "cover", pad: "contain", stretch: "fill" };

/** Adds to a figure with a result a button that switches the comparison on.
 *
 * `input`, `fit`: of a job's params. `short`: with an icon only.
 */
export function comparable(figure, input, fit, short) {
  const label = "Before and after";
  const switching = h(
    "button",
    {
      class: "button little compare-switch",
      type: "button",
      title: short ? label : null,
      "aria-label": label,
      "aria-pressed": "false",
      onclick: toggle,
    },
    icon("compare"),
    short ? null : label,
  );
  let parts = null; // the elements of the comparison, while it is on

  async function toggle() {
    if (parts) {
      for (const part of parts) part.remove();
      parts = null;
    } else {
      try {
        parts = comparison(figure, await addressOf(input.fileId), fit);
        switching.before(...parts);
        parts.at(-1).focus();
      } catch {
        toast("The server no longer has the picture that this was made from.");
        switching.remove();
      }
    }
    switching.setAttribute("aria-pressed", String(parts !== null));
  }

  figure.append(switching);
}

function comparison(figure, address, fit) {
  const before = h("img", { class: "before", src: address, alt: "The picture before" });
  before.style.objectFit = FITS[fit] ?? FITS.crop;
  const slider = h("input", {
    class: "divider",
    type: "range",
    min: 0,
    max: 100,
    value: 50,
    "aria-label": "Before and after",
    oninput: tell,
  });
  function tell() {
    figure.style.setProperty("--at", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value}% before`);
  }
  tell();
  return [
    before,
    h("span", { class: "divide", "aria-hidden": "true" }),
    h("span", { class: "tag left", "aria-hidden": "true" }, "Before"),
    h("span", { class: "tag right", "aria-hidden": "true" }, "After"),
    slider,
  ];
}
