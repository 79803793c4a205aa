/** The downloads of models: progress, cancel, and a retry of those that failed. */

import { complain } from "../announce.js";
import { get, post } from "../api.js";
import { h } from "../dom.js";
import { bytes } from "../format.js";

export async function getPulls(signal) {
  return (await get("/api/models/pulls", { signal })).pulls;
}

export function drawPulls(place, pulls, refresh) {
  const newest = [...new Map(pulls.toReversed().map((pull) => [pull.source, pull])).values()];
  const shown = newest.filter(({ state }) => ["queued", "downloading", "failed"].includes(state));
  place.hidden = !shown.length;
  place.replaceChildren(
    ...(shown.length
      ? [
          h(
            "section",
            { class: "card" },
            h("h2", {}, "Downloads"),
            h(
              "ul",
              { class: "jobs" },
              shown.map((pull) => {
                const total = pull.totalBytes ?? 0;
                const done = pull.doneBytes ?? 0;
                const bar = h("span");
                if (total) bar.style.width = `${(done / total) * 100}%`;
                const failed = pull.state === "failed";
                return h(
                  "li",
                  {},
                  h(
                    "div",
                    { class: "row" },
                    h("b", { class: "grow" }, pull.source),
                    failed
                      ? h(
                          "button",
                          {
                            class: "button little",
                            type: "button",
                            onclick: () =>
                              post("/api/models/pull", { source: pull.source, name: pull.model }).then(
                                refresh,
                                complain,
                              ),
                          },
                          "Try again",
                        )
                      : h(
                          "button",
                          {
                            class: "button plain little risky",
                            type: "button",
                            onclick: () => post(`/api/models/pulls/${pull.id}/cancel`).then(refresh, complain),
                          },
                          "Cancel",
                        ),
                  ),
                  failed
                    ? h("p", { class: "note bad" }, pull.error ?? "The download failed.")
                    : h(
                        "div",
                        {
                          class: `meter ${total ? "" : "unknown"}`,
                          role: "progressbar",
                          "aria-label": `Pulling ${pull.source}`,
                          "aria-valuenow": total ? Math.round((done / total) * 100) : null,
                        },
                        bar,
                      ),
                  failed
                    ? null
                    : h(
                        "p",
                        { class: "soft small" },
                        total ? `${bytes(done)} of ${bytes(total)}${free(pull)}` : pull.doing || "Waiting",
                      ),
                );
              }),
            ),
          ),
        ]
      : []),
  );
}

function free(pull) {
  return pull.freeBytes == null ? "" : `; ${bytes(pull.freeBytes)} were free at the start`;
}
