// The timeline of a job: every change, newest first, with its actor and reason.

import { h } from "./dom.js";
import { distance, duration, time } from "./format.js";
import { badge } from "./parts.js";

/** The actions that people request; each text is followed by the actor. */
const ASKED = { submit: "Submitted", halt: "Halt requested", resume: "Resumed", stop: "Stop requested" };
/** All other actions. */
const DONE = {
  claim: "Claimed by a process",
  yield: "Request fulfilled",
  complete: "Completed",
  fail: "Failed",
  retry: "Failed, will be retried",
  expire: "Lost contact with its process",
  release: "Released by its process",
};

/** The timeline of a job. */
export class Timeline {
  #changes = new Map();
  element = h("ol", { class: "timeline" });

  /** Add a change. Returns false if it was added before. */
  add(change) {
    if (this.#changes.has(change.seq)) return false;
    this.#changes.set(change.seq, change);
    const older = [...this.element.children].find((item) => Number(item.dataset.seq) < change.seq);
    this.element.insertBefore(show(change), older ?? null);
    return true;
  }

  /** Return the last request in one line: action, time, actor and reason. Returns "" if there is none. */
  latest() {
    const asked = [...this.#changes.values()].filter(({ action }) => action in ASKED);
    const last = asked.sort((one, other) => one.seq - other.seq).at(-1);
    if (!last) return "";
    const why = last.reason ? `: “${last.reason}”` : "";
    return `${ASKED[last.action]} ${distance(last.asked_at)} by ${last.actor}${why}`;
  }
}

function show(change) {
  const seconds = (Date.parse(change.at) - Date.parse(change.asked_at)) / 1000;
  const what =
    change.action in ASKED ? `${ASKED[change.action]} by ${change.actor}` : (DONE[change.action] ?? change.action);
  const took = change.action === "yield" && seconds > 0 ? ` after ${duration(seconds)}` : "";
  return h(
    "li",
    { "data-seq": change.seq },
    badge(change.to_status),
    h("span", { class: "act" }, `${what}${took}`),
    time(change.at),
    change.reason ? h("q", {}, change.reason) : null,
  );
}
