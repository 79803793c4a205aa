/** What a source is and whether it can be served, shown in a dialog before it is added or pulled. */

import { post } from "../api.js";
import { h } from "../dom.js";
import { bytes } from "../format.js";

const FITS = {
  fits: "It fits.",
  "after others leave": "It fits when other models have left.",
  offloaded: "It is larger than the device: its blocks visit the device one after the other, which is slow.",
  "too large": "It is too large for this device.",
};

/** Returns an element that follows `input`: it shows the report on the source that was typed last. */
export function checkReport(input) {
  const element = h("div", { class: "stack", role: "status" });
  let latest = "";
  async function check() {
    const source = input.value.trim();
    if (source === latest) return;
    latest = source;
    element.replaceChildren(...(source ? [h("p", { class: "soft small" }, "Looking at it…")] : []));
    if (!source) return;
    let shown;
    try {
      shown = draw(await post("/api/models/check", { source }));
    } catch (error) {
      shown = [h("p", { class: "note bad" }, error.message)];
    }
    if (source === latest) element.replaceChildren(...shown);
  }
  input.addEventListener("change", check);
  return element;
}

function draw(report) {
  const what = [report.type, report.pipeline].filter(Boolean).join(", ");
  const size = report.weightBytes
    ? `${bytes(report.weightBytes)} on the device`
    : report.downloadBytes
      ? `${bytes(report.downloadBytes)} to download`
      : "";
  const device = report.device ? `${report.device.name}: ${bytes(report.device.free)} free` : "";
  const parts = report.parts
    .filter(({ bytes: n }) => n)
    .map(({ name, dtypes, bytes: n }) => `${name} ${bytes(n)} (${Object.keys(dtypes).join(", ")})`);
  return [
    h(
      "p",
      { class: `note ${report.servable ? "good" : "bad"}` },
      report.reason
        ? `It cannot be served, it is ${report.state}: ${report.reason.replace(/\.$/, "")}.`
        : [what, size, device, FITS[report.fits]].filter(Boolean).join(" · "),
    ),
    report.reason && what ? h("p", { class: "soft small" }, what) : null,
    parts.length ? h("p", { class: "soft small" }, parts.join(" · ")) : null,
    ...report.notes.map((note) => h("p", { class: "note warn" }, note)),
  ].filter(Boolean);
}
