// What happened to a job: every change, the newest first, with who and why.

import { h } from "./dom.js";
import { distance, duration, time } from "./format.js";
import { badge } from "./parts.js";

/** What people ask for, as a sentence begins that tells who did. */
const ASKED = { submit: "Submitted", halt: "Halt asked for", resume: "Resumed", stop: "Stop asked for" };
/** What else happens. */
const DONE = {
  claim: "Taken into a slot",
  yield: "Ceased",
  complete: "Done",
  fail: "Failed",
  retry: "To be tried again",
  expire: "Its process fell silent",
  release: "Handed over",
};

/** The timeline of a job. */
export class Timeline {
  #changes = new Map();
  element = h("ol", { class: "timeline" });

  /** Add a change; returns whether it was not there yet. */
  add(change) {
    if (this.#changes.has(change.seq)) return false;
    this.#changes.set(change.seq, change);
    const older = [...this.element.children].find((item) => Number(item.dataset.seq) < change.seq);
    this.element.insertBefore(show(change), older ?? null);
    return true;
  }

  /** Return who asked last for what, when and why, in one line. */
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
  const took = change.action === "yield" && seconds > 0 ? `, ${duration(seconds)} after that was asked for` : "";
  return h(
    "li",
    { "data-seq": change.seq },
    badge(change.to_status),
    h("span", { class: "act" }, `${what}${took}`),
    time(change.at),
    change.reason ? h("q", {}, change.reason) : null,
  );
}
