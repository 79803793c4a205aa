/** Line icons of 24 by 24 units in the colour of the surrounding text. */

import { svg } from "./dom.js";

const PATHS = {
  create: ["M12 4v4M12 16v4M4 12h4M16 12h4", "M12 9.5 13 11l1.5 1-1.5 1-1 1.5-1-1.5-1.5-1 1.5-1z"],
  chat: ["M5 5h14a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1h-7l-4 4v-4H5a1 1 0 0 1-1-1V6a1 1 0 0 1 1-1z"],
  gallery: ["M4 4h7v9H4zM13 4h7v5h-7zM13 11h7v9h-7zM4 15h7v5H4z"],
  queue: ["M4 20v-5M9.3 20V9M14.6 20v-8M20 20V4"],
  models: ["M12 3.5 20 8v8l-8 4.500L4 16V8z", "M4 8l8 4.500L20 8M12 12.500v8"],
  keys: ["M14.500 4.500a5 5 0 1 1-3.700 8.300L4.500 19.500V16H8v-2.500h2.200a5 5 0 0 1 4.300-9z", "M15.500 8.500h.01"],
  docs: ["M8 7 3.500 12 8 17M16 7l4.500 5-4.500 5M13.500 5l-3 14"],
  image: [
    "M5 4.500h14a1 1 0 0 1 1 1v13a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1v-13a1 1 0 0 1 1-1z",
    "M4.500 17l5-5.500 3.500 3.500 2.500-2.500 4 4.500M15 9h.01",
  ],
  video: ["M4.500 6h11v12h-11zM15.500 10.500 20 8v8l-4.500-2.500"],
  download: ["M12 4v11M7.500 11 12 15.500 16.500 11M5 19.500h14"],
  reuse: ["M5 9h10a4 4 0 0 1 0 8h-3M8.500 5.500 5 9l3.500 3.500"],
  trash: ["M5 7h14M10 7V4.500h4V7M7 7l.8 12.500h8.400L17 7M10.500 10.500v5.500M13.500 10.500v5.500"],
  stop: ["M7.500 7.500h9v9h-9z"],
  send: ["M12 19.500V5M6 10.500 12 4.500l6 6"],
  plus: ["M12 5v14M5 12h14"],
  copy: ["M9 9h10.500v10.500H9zM15 9V4.500H4.500V15H9"],
  close: ["M6 6l12 12M18 6 6 18"],
  pen: ["M5 19l1-4L16 5l3 3L9 18zM14 7l3 3"],
  eraser: ["M9 19.500 4.500 15 14 5.500 19.500 11 11 19.500zM9 10.500 14.500 16M11 19.500h8.500"],
  invert: ["M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16z", "M12 4v16M12 8h6M12 12h8M12 16h6"],
  compare: ["M4 5h16v14H4zM12 3v18M8.500 10 6.500 12l2 2M15.500 10l2 2-2 2"],
  dice: ["M5 5h14v14H5zM9 9h.01M15 9h.01M12 12h.01M9 15h.01M15 15h.01"],
  pin: ["M9 4h6l-.8 6 3.300 3.500h-11L9.800 10zM12 13.500V20"],
  out: ["M10 5H5v14h5M14 8l4 4-4 4M18 12H9"],
  theme: ["M12 4a8 8 0 1 0 0 16z", "M12 4a8 8 0 0 1 0 16"],
  more: ["M6 12h.01M12 12h.01M18 12h.01"],
};

export function icon(name) {
  return svg(
    "svg",
    {
      viewBox: "0 0 24 24",
      fill: "none",
      stroke: "currentColor",
      "stroke-width": "1.7",
      "stroke-linecap": "round",
      "stroke-linejoin": "round",
      "aria-hidden": "true",
    },
    PATHS[name].map((d) => svg("path", { d })),
  );
}

/** A rectangle with an aspect ratio such as "16:9". */
export function shape(ratio) {
  const [w, h] = ratio.split(":").map(Number);
  const scale = 15 / Math.max(w, h);
  const [width, height] = [w * scale, h * scale];
  return svg(
    "svg",
    { viewBox: "0 0 18 18", fill: "none", stroke: "currentColor", "stroke-width": "1.5", "aria-hidden": "true" },
    svg("rect", { x: 9 - width / 2, y: 9 - height / 2, width, height, rx: 1.5 }),
  );
}
