/** Entry point: signs in, shows the view of the address, and displays whether the server answers. */

import { announce, complain } from "./announce.js";
import { get, link } from "./api.js";
import { h, say } from "./dom.js";
import { icon } from "./icons.js";
import { session } from "./session.js";
import { signin } from "./views/signin.js";

const VIEWS = {
  create: { label: "Create", load: () => import("./views/create.js") },
  chat: { label: "Chat", load: () => import("./views/chat.js") },
  gallery: { label: "Gallery", load: () => import("./views/gallery.js") },
  queue: { label: "Queue", load: () => import("./views/queue.js") },
  models: { label: "Models", load: () => import("./views/models.js") },
  keys: { label: "Keys", load: () => import("./views/keys.js"), admin: true },
  docs: { label: "API", load: () => import("./views/docs.js") },
};
const READY_EVERY_MS = 5000;

const app = document.getElementById("app");
let leave = new AbortController(); // aborted when the user leaves the current view

start().catch(complain);

async function start() {
  theme(localStorage.getItem("theme"));
  if (session.key) {
    try {
      session.me = await get("/api/me");
    } catch (error) {
      if (error.code === 401 || error.code === 403) session.forget();
      else return showSignin(error.message);
    }
  }
  if (session.me) showFrame();
  else showSignin();
}

function showSignin(reason) {
  leave.abort();
  document.title = "Sign in · AgentName";
  app.replaceChildren(signin(reason, showFrame));
  app.querySelector("input")?.focus();
}

function showFrame() {
  const brand = () =>
    h(
      "a",
      { class: "brand", href: "#/create" },
      h("img", { src: "/page/icon.svg", alt: "", width: 26, height: 26 }),
      "AgentName",
    );
  const links = Object.entries(VIEWS)
    .filter(([, view]) => !view.admin || session.admin)
    .map(([name, view]) => h("a", { href: `#/${name}`, "data-view": name }, icon(name), h("span", {}, view.label)));
  const pulse = () => h("span", { class: "pulse", "data-pulse": "" }, h("span", {}, "Ready"));
  const buttons = () =>
    h(
      "div",
      { class: "row" },
      h(
        "button",
        {
          class: "button plain little",
          type: "button",
          title: "Light or dark",
          "aria-label": "Light or dark",
          onclick: nextTheme,
        },
        icon("theme"),
      ),
      h(
        "button",
        { class: "button plain little", type: "button", "aria-label": "Sign out", title: "Sign out", onclick: signOut },
        icon("out"),
      ),
    );
  app.replaceChildren(
    h(
      "div",
      { class: "frame" },
      h("div", { class: "top" }, brand(), h("div", { class: "row" }, pulse(), buttons())),
      h(
        "header",
        { class: "side" },
        brand(),
        h("nav", { class: "nav", "aria-label": "Views" }, links),
        h(
          "div",
          { class: "who" },
          pulse(),
          h(
            "div",
            {},
            h("div", { class: "soft" }, "Signed in as"),
            h("b", {}, session.me.name),
            h("span", { class: "soft" }, ` · ${session.me.plan}`),
          ),
          buttons(),
        ),
      ),
      h("main", { class: "main", id: "main", tabindex: "-1" }),
    ),
  );
  window.onhashchange = route;
  route();
  watchReadiness();
}

async function route() {
  const name = location.hash.replace(/^#\//, "");
  if (location.hash === "#main") return;
  const view = VIEWS[name] && (!VIEWS[name].admin || session.admin) ? VIEWS[name] : VIEWS.create;
  const known = Object.keys(VIEWS).find((key) => VIEWS[key] === view);
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  for (const anchor of app.querySelectorAll("[data-view]")) {
    if (anchor.dataset.view === known) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  document.title = `${view.label} · AgentName`;
  try {
    const { default: show } = await view.load();
    if (signal.aborted) return;
    const main = document.getElementById("main");
    main.replaceChildren(...show({ signal }));
    if (route.again) main.querySelector("h1")?.focus({ preventScroll: true });
    route.again = true;
    scrollTo(0, 0);
    announce(view.label);
  } catch (error) {
    complain(error);
  }
}

async function watchReadiness() {
  const mine = (watchReadiness.token = {});
  while (watchReadiness.token === mine && session.key) {
    await check();
    await new Promise((resolve) => setTimeout(resolve, READY_EVERY_MS));
  }
}

async function check() {
  if (document.hidden) return;
  try {
    const reply = await fetch("/healthz", { cache: "no-store" });
    if (!reply.ok) throw new Error();
    const problem = await get("/api/gpu").then(
      () => null,
      (error) => error,
    );
    pulse(problem === null ? "ready" : "busy", problem === null ? "Ready" : "Not ready");
  } catch {
    pulse("away", "No answer");
  }
}

function pulse(state, text) {
  for (const element of app.querySelectorAll("[data-pulse]")) {
    element.dataset.state = state;
    say(element.firstChild, text);
  }
}

link.addEventListener("reach", ({ detail }) => pulse(detail ? "ready" : "away", detail ? "Ready" : "No answer"));
link.addEventListener("signedout", () => {
  session.forget();
  showSignin("The server no longer accepts this key. It may have been revoked.");
});

function signOut() {
  session.forget();
  history.replaceState(null, "", location.pathname);
  location.reload(); // clears everything of the old session from memory
}

function theme(name) {
  if (name === "light" || name === "dark") document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
}

function nextTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const order = dark ? ["", "light", "dark"] : ["", "dark", "light"];
  const next = order[(order.indexOf(document.documentElement.dataset.theme ?? "") + 1) % 3];
  if (next) localStorage.setItem("theme", next);
  else localStorage.removeItem("theme");
  theme(next);
  announce(next ? `${next} theme` : "System theme");
}
