/** The Create view: a form for images and videos, and the results of recent jobs. */

import { complain } from "../announce.js";
import { get, post } from "../api.js";
import { h } from "../dom.js";
import { bodyOf, draft } from "../draft.js";
import { createForm } from "../parts/create_form.js";
import { recentJobs } from "../parts/recent_jobs.js";
import { session } from "../session.js";

export default function create({ signal }) {
  let models = [];
  let loras = []; // their names
  const form = createForm(
    () => models,
    () => loras,
    submit,
    signal,
  );
  const usable = get("/api/models", { signal }).then((reply) =>
    reply.models.filter(({ state }) => state !== "incomplete"),
  );
  const results = recentJobs(usable, signal);

  async function submit(model) {
    form.busy(true);
    try {
      const { jobId } = await post("/api/generate", bodyOf(draft, model), {
        headers: { "Idempotency-Key": crypto.randomUUID?.() ?? `${Math.random()}` },
      });
      form.problem(null);
      await results.follow(jobId);
      session.me = await get("/api/me");
      form.allowance();
    } catch (error) {
      form.problem(error);
    } finally {
      form.busy(false);
    }
  }

  Promise.all([usable, get("/api/loras", { signal })]).then((replies) => {
    [models, { loras }] = replies;
    form.draw();
  }, complain);
  get("/api/me", { signal }).then((me) => {
    session.me = me;
    form.allowance();
  }, complain);
  results.load().catch(complain);
  return [
    h("header", {}, h("div", {}, h("h1", { tabindex: "-1" }, "Create"))),
    h("div", { class: "studio" }, form.element, results.element),
  ];
}
