// One job in the list.

import { Buttons } from "./control.js";
import { h, setAttribute, setText } from "./dom.js";
import { distance, figures, isToCome, setTime, short } from "./format.js";
import { alarmOf, badge, copyButton, jobLink, labelLinks, setBadge, setBar } from "./parts.js";

const MOST_LABELS = 6;

/** A row of the table, updated in place as its job changes. */
export class Row {
  #badge;
  #alarm = h("span", { class: "alarm" });
  #bar = h("progress");
  #figures = h("div", { class: "figures" });
  #note = h("div", { class: "note" });
  #age = h("time");
  #buttons;

  constructor(job, { onChange }) {
    this.#badge = badge(job.status);
    setAttribute(this.#bar, "aria-label", `Progress of ${job.type} ${short(job.id)}`);
    this.#buttons = new Buttons(job, { onChange });
    this.element = h(
      "tr",
      { "data-job": job.id, role: "row" },
      h("td", { class: "state", role: "cell" }, this.#badge, this.#alarm),
      h(
        "td",
        { class: "what", role: "cell" },
        jobLink(job.id, { class: "type" }, job.type),
        h("span", { class: "id" }, h("code", { title: job.id }, short(job.id)), copyButton(job.id)),
        labelLinks(job, MOST_LABELS),
      ),
      h("td", { class: "how", role: "cell" }, this.#bar, this.#figures, this.#note),
      h("td", { class: "when", role: "cell" }, this.#age),
      h("td", { class: "do", role: "cell" }, this.#buttons.element),
    );
    this.update(job);
  }

  /** Show the job as it is now. */
  update(job) {
    this.job = job;
    setBadge(this.#badge, job.status);
    setText(this.#alarm, alarmOf(job) && `⚠ ${alarmOf(job)}`);
    setBar(this.#bar, job);
    setText(this.#figures, figures(job));
    setText(this.#note, noteOf(job));
    this.#note.classList.toggle("error", job.status === "failed");
    setAttribute(this.#note, "title", job.error ?? "");
    setTime(this.#age, job.submitted_at);
    this.#buttons.update(job);
    this.element.dataset.status = job.status;
    this.element.toggleAttribute("data-alarm", Boolean(alarmOf(job)));
  }
}

/** Return a note in one line: when the job begins, why it failed, or its latest message. */
function noteOf(job) {
  if (job.status === "submitted" && isToCome(job.run_at)) {
    return `${job.error ? "next attempt" : "starts"} ${distance(job.run_at)}${job.error ? `: ${job.error}` : ""}`;
  }
  return job.status === "failed" ? (job.error ?? "").split("\n")[0] : (job.progress.message ?? "");
}
