/** What can be done with a job and its outputs: download, edit, animate, use again, copy, cancel, delete. */

import { complain, copy, toast } from "../announce.js";
import { remove } from "../api.js";
import { confirm } from "../dialog.js";
import { h } from "../dom.js";
import { ended } from "../follow.js";
import { fileName } from "../format.js";
import { icon } from "../icons.js";
import { nextSteps, reuse } from "../start_from.js";

/** The buttons below a job. `on`: {models, leave(), changed(job), gone(job)}, as `jobStage` takes it. */
export function jobActions(job, on) {
  const button = (name, text, onclick, kind = "") =>
    h("button", { class: `button ${kind}`, type: "button", onclick }, icon(name), text);
  if (!ended(job))
    return h(
      "div",
      { class: "row" },
      button("stop", "Cancel", () => drop(job, on), "risky"),
    );
  return h(
    "div",
    { class: "row" },
    job.outputs.length === 1 ? outputActions(job, 0, on) : null,
    job.prompt ? button("reuse", "Use again", () => leave(on, (models) => reuse(job, models))) : null,
    button(
      "copy",
      "Copy settings",
      () => copy(JSON.stringify({ prompt: job.prompt, model: job.model, ...job.params }, null, 2), "Settings"),
      "plain",
    ),
    job.status === "canceled" ? null : button("trash", "Delete", () => drop(job, on), "plain risky"),
  );
}

/** The buttons of one output. `short`: only with icons. What the models here cannot do is not offered. */
export function outputActions(job, index, on, short = false) {
  const output = job.outputs[index];
  const look = (label) => ({
    class: `button ${short ? "little" : ""}`,
    ...(short ? { title: label, "aria-label": `${label}, output ${index + 1}` } : {}),
  });
  const download = h(
    "a",
    { ...look("Download"), href: output.url, download: fileName(job, output, index) },
    icon("download"),
    short ? null : "Download",
  );
  const further = h("span", { class: "further" });
  on.models.then(
    (models) =>
      further.replaceChildren(
        ...nextSteps(job, output, models).map(([label, symbol, begin]) =>
          h(
            "button",
            { ...look(label), type: "button", onclick: () => leave(on, begin) },
            icon(symbol),
            short ? null : label,
          ),
        ),
      ),
    () => {}, // the view has said so
  );
  return [download, further];
}

function leave(on, begin) {
  on.models.then((models) => {
    on.leave?.();
    begin(models);
  }, complain);
}

/** Cancels a job that has not ended, deletes one that has. */
async function drop(job, on) {
  const over = ended(job);
  if (
    over &&
    !(await confirm("Delete this?", "The files are deleted from the server. This cannot be undone.", "Delete"))
  )
    return;
  try {
    const now = await remove(`/api/jobs/${job.jobId}`);
    const deleted = over || now.status === "completed" || now.status === "failed"; // it may have ended meanwhile
    toast(deleted ? "Deleted." : "Canceled.");
    if (deleted) on.gone(now);
    else on.changed(now);
  } catch (error) {
    complain(error);
  }
}
