/** A device's memory as a bar: all holders, the reserve and the free rest, which sum to the total. */

import { h } from "../dom.js";
import { bytes } from "../format.js";

const KINDS = { weights: "weights", kv_cache: "KV cache", activations: "activations", cached: "cached", other: "" };
const HUES = 6;

export function memory(device) {
  const { total, used, reserve, holders } = device;
  const parts = [
    ...holders.map((holder, index) => ({
      name: holder.name,
      what: KINDS[holder.kind] ?? holder.kind,
      n: holder.bytes,
      hue: (index % HUES) + 1,
      kind: holder.kind === "other" ? "others" : undefined,
    })),
    { name: "Reserve", n: reserve, kind: "reserve" },
    { name: "Free", n: total - used - reserve, kind: "free" },
  ].filter(({ n }) => n > 0);
  return h(
    "section",
    { class: "card memory" },
    h(
      "div",
      { class: "row" },
      h("h2", { class: "grow" }, device.name),
      h("span", {}, h("b", {}, bytes(used)), h("span", { class: "soft" }, ` of ${bytes(total)} used`)),
    ),
    h(
      "div",
      { class: "bar", "aria-hidden": "true" },
      parts.map((part) => slice(part, total)),
    ),
    h(
      "ul",
      { class: "legend", "aria-label": "Who holds how much" },
      parts.map((part) =>
        h(
          "li",
          {},
          dot(part),
          h("span", { class: "grow" }, part.name, part.what ? h("span", { class: "soft" }, ` ${part.what}`) : null),
          h("span", { class: "amount" }, bytes(part.n)),
        ),
      ),
    ),
  );
}

function slice(part, total) {
  const element = h("span", { class: part.kind ?? "held", title: `${part.name}: ${bytes(part.n)}` });
  paint(element, part);
  element.style.flexGrow = part.n / total;
  return element;
}

function dot(part) {
  const element = h("span", { class: `dot ${part.kind ?? "held"}` });
  paint(element, part);
  return element;
}

function paint(element, { hue }) {
  if (hue) element.style.setProperty("--hue", `var(--hue-${hue})`);
}
