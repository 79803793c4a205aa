/** Messages to the user: for screen readers, and as toasts on the screen. */

import { h, say } from "./dom.js";

const SHOWN_MS = 5000;

export function announce(text) {
  say(document.getElementById("announcer"), text);
}

export function toast(text, kind = "") {
  const box = h("div", { class: `toast ${kind}` }, text);
  document.getElementById("toasts").append(box);
  announce(text);
  setTimeout(() => box.remove(), SHOWN_MS);
}

export const complain = (error) => error.name !== "AbortError" && toast(error.message, "bad");

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied.`);
  } catch {
    toast("The browser does not let this page copy. Select the text and copy it yourself.", "bad");
  }
}
