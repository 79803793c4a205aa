/** Creates DOM elements. Text is inserted as text, never as markup, so that user input cannot inject markup. */

const SVG = "http://www.w3.org/2000/svg";

/** h("p", {class: "soft", onclick}, "text", child, [children], null) */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in FIELDS) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const FIELDS = { value: 1, checked: 1, disabled: 1, muted: 1, loop: 1, htmlFor: 1, selected: 1 };

/** Sets the text only if it differs, so that an unchanged text disturbs neither a screen reader nor a selection. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let lastId = 0;

/** A control with its label and an optional hint. */
export function field(label, control, hint, extra = {}) {
  control.id ||= `f${++lastId}`;
  const hints = hint ? h("span", { class: "hint", id: `${control.id}-hint` }, hint) : null;
  if (hints) control.setAttribute("aria-describedby", hints.id);
  return h("div", { class: `field ${extra.class ?? ""}` }, h("label", { htmlFor: control.id }, label), control, hints);
}

/** A row of radio buttons. `options`: [value, label, icon?] */
export function choice(name, legend, options, chosen, onchange) {
  return h(
    "fieldset",
    { class: "field" },
    h("legend", {}, legend),
    h(
      "div",
      { class: "choice" },
      options.map(([value, label, symbol]) =>
        h(
          "label",
          {},
          h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => onchange(value) }),
          symbol ?? null,
          label,
        ),
      ),
    ),
  );
}

export function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, label]) => h("option", { value, selected: value === chosen }, label)));
  return select;
}
