// The content of a job's page.

import { ATTENDED, Buttons, shown } from "./control.js";
import { h, setTerms, setText, terms } from "./dom.js";
import { downloadLink } from "./download.js";
import { duration, figures, number, time } from "./format.js";
import { alarmOf, badge, copyButton, labelLinks, setBadge, setBar } from "./parts.js";

/** The parts of the page, updated in place as the job changes. */
export class JobView {
  #timeline;
  #buttons;
  #badge;
  #latest = h("p", { class: "latest" });
  #alarm = h("p", { class: "alarm" });
  #bar = h("progress", { "aria-label": "Progress" });
  #figures = h("p", { class: "figures" });
  #message = h("p", { class: "note" });
  #reason = h("input", {
    maxlength: 1000,
    placeholder: "Reason (optional)",
    "aria-label": "Reason",
    autocomplete: "off",
  });
  #controls;
  #facts = terms();
  #kept = terms();
  #details = terms();
  #error = h("pre", { class: "error" });
  #result = h("pre");
  #file = h("p");

  constructor(job, { timeline, log, onChange }) {
    this.#timeline = timeline;
    this.#badge = badge(job.status);
    this.#buttons = new Buttons(job, {
      reason: () => this.#reason.value.trim(),
      onChange: (changed) => {
        this.#reason.value = "";
        onChange(changed);
      },
    });
    this.#controls = h("div", { class: "controls" }, this.#reason, this.#buttons.element);
    const now = [this.#bar, this.#figures, this.#message, this.#controls];
    this.elements = [
      this.#head(job),
      h("section", { class: "card now", "aria-label": "Progress" }, now),
      h("div", { class: "columns" }, this.#left(log), this.#right(job)),
    ];
  }

  /** Show the job as it is now. */
  update(job) {
    setBadge(this.#badge, job.status);
    setText(this.#latest, this.#timeline.latest());
    setText(this.#alarm, alarmOf(job) && `⚠ ${alarmOf(job)}`);
    setBar(this.#bar, job);
    setText(this.#figures, figures(job));
    setText(this.#message, job.progress.message ?? "");
    this.#buttons.update(job);
    this.#controls.hidden = this.#buttons.element.hidden;
    setTerms(this.#facts, factsOf(job));
    setTerms(this.#kept, keptOf(job));
    setTerms(
      this.#details,
      Object.entries(job.details).map(([name, value]) => [name, shown(value)]),
    );
    setText(this.#error, job.error ?? "");
    setText(this.#result, job.result == null ? "" : JSON.stringify(job.result, null, 2));
    if (job.status === "completed" && job.result?.file && !this.#file.hasChildNodes())
      this.#file.append(downloadLink(job));
    for (const node of [this.#error, this.#details, this.#result]) node.closest("section").hidden = !node.textContent;
  }

  #left(log) {
    return h("div", {}, [
      card("Error", this.#error),
      card("Result", this.#file, this.#result),
      card("Log, times in UTC", log.element),
      card("History", this.#timeline.element),
    ]);
  }

  #right({ args }) {
    return h("div", {}, [
      card("Checkpoint", this.#kept),
      card("Details", this.#details),
      card("Facts", this.#facts),
      card("Arguments", h("pre", {}, JSON.stringify(args, null, 2))),
    ]);
  }

  #head(job) {
    const id = h("span", { class: "id" }, h("code", {}, job.id), copyButton(job.id));
    const title = h("div", { class: "title" }, h("span", { role: "status" }, this.#badge), h("h1", {}, job.type), id);
    return h("header", {}, title, labelLinks(job), this.#latest, this.#alarm);
  }
}

function card(title, ...content) {
  return h("section", { class: "card", "aria-label": title.split(",")[0] }, h("h2", {}, title), content);
}

/** Return facts about the job, as pairs of a term and a value. If a fact does not apply, its value is false or null. */
function factsOf(job) {
  const isHeld = job.lease && ATTENDED.includes(job.status);
  const isWaiting = job.status === "submitted" && job.run_at > job.submitted_at;
  const isWorthTelling = job.failures > 0 || job.max_attempts > 1;
  return [
    ["Submitted", time(job.submitted_at)],
    ["Not before", isWaiting && time(job.run_at)],
    ["Started", job.started_at && time(job.started_at)],
    ["Ended", job.finished_at && time(job.finished_at)],
    ["Run time", job.run_seconds > 0 && duration(job.run_seconds)],
    ["Attempt", job.attempt > 0 && number(job.attempt)],
    ["Failures", isWorthTelling && `${number(job.failures)} of ${number(job.max_attempts)} attempts`],
    ["Crashes", job.crashes > 0 && number(job.crashes)],
    ["Priority", job.priority !== 0 && number(job.priority)],
    ["Timeout", job.timeout_seconds && duration(job.timeout_seconds)],
    ["Halt latency", job.expected_halt_seconds != null && `about ${duration(job.expected_halt_seconds)}`],
    ["Process", isHeld && job.lease.owner],
    ["Lease", isHeld && `${duration(job.lease.seconds_left)} left`],
  ];
}

function keptOf({ checkpoint }) {
  if (!checkpoint) return [["Saved", "not yet"]];
  return [
    ["Number", number(checkpoint.seq)],
    ["Saved", time(checkpoint.saved_at)],
    ["Done", checkpoint.done != null && number(checkpoint.done)],
  ];
}
