// One job: all there is to know of it.

import { NoAnswer, ask, jobPath, request } from "./api.js";
import { showConnection } from "./connection.js";
import { Buttons, shown } from "./control.js";
import { h, setTerms, setText, terms, throttled } from "./dom.js";
import { duration, figures, number, setTime } from "./format.js";
import { follow } from "./live.js";
import { LogTail } from "./log.js";
import { sayError } from "./notices.js";
import { alarmOf, badge, copyButton, labelLink, setBadge, setBar, viewLink } from "./parts.js";
import { Timeline } from "./timeline.js";
import { token } from "./token.js";

const REFRESH_MILLISECONDS = 1000;
/** While a job only goes on, its log and the rest are asked for less often. */
const LOOK_MILLISECONDS = 3000;

/** The page of a job. */
export class JobPage {
  #id;
  #job = null;
  #asked = 0; // as in the list
  #unfollow = () => undefined;
  #badge = badge("submitted");
  #alarm = h("p", { class: "alarm" });
  #latest = h("p", { class: "latest" });
  #bar = h("progress", { "aria-label": "Progress" });
  #figures = h("p", { class: "figures" });
  #message = h("p", { class: "note" });
  #reason = h("input", { id: "reason", maxlength: 1000, placeholder: "Reason (optional)", "aria-label": "Reason, kept with the change", autocomplete: "off" });
  #controls = h("div", { class: "controls" }, this.#reason);
  #buttons = null;
  #facts = terms();
  #kept = terms();
  #error = h("pre", { class: "error" });
  #args = h("pre");
  #details = terms();
  #result = h("pre");
  #file = h("p");
  #timeline = new Timeline();
  #log;
  #refreshSoon = throttled(() => this.refresh(), REFRESH_MILLISECONDS);
  #lookSoon = throttled(() => this.refresh(), LOOK_MILLISECONDS);

  constructor(id) {
    this.#id = id;
    this.title = id;
    this.#log = new LogTail(id);
    this.element = h("article", { class: "job", "data-job": id }, viewLink("", { class: "back" }, "← All jobs"), h("p", { class: "hint" }, "Looking…"));
    this.refresh();
    this.#unfollow = follow(jobPath(id, "/events"), {
      onEvent: (name, data) => this.#heed(name, data),
      onRefresh: () => this.refresh(),
      onState: showConnection,
    });
  }

  /** Let go of everything. */
  leave() {
    this.#unfollow();
  }

  /** Ask how things are, and show it. */
  async refresh() {
    const asked = ++this.#asked;
    try {
      const [job, { changes }] = await Promise.all([ask(jobPath(this.#id)), ask(jobPath(this.#id, "/changes")), this.#log.read()]);
      if (asked !== this.#asked) return;
      this.#timeline.show(changes);
      this.#show(job);
    } catch (error) {
      if (asked !== this.#asked || error instanceof NoAnswer) return; // as in the list
      if (error.status === 404) this.#complain(error);
      else sayError(error);
    }
  }

  #heed(name, data) {
    if (name === "job") return this.#show(data);
    if (!this.#job) return undefined;
    if (name === "progress") {
      this.#show({ ...this.#job, progress: data });
      return this.#lookSoon();
    }
    // A stream tells the past first.
    if (this.#timeline.add(data)) this.#refreshSoon();
    return undefined;
  }

  #show(job) {
    if (!this.#job) this.#build(job);
    this.#job = job;
    document.title = `${job.status} · ${job.type} · Job manager`;
    setBadge(this.#badge, job.status);
    setText(this.#alarm, alarmOf(job) && `⚠ ${alarmOf(job)}`);
    setBar(this.#bar, job);
    setText(this.#figures, figures(job));
    setText(this.#message, job.progress.message ?? "");
    setText(this.#latest, this.#timeline.latest());
    this.#buttons.update(job);
    this.#controls.hidden = this.#buttons.element.hidden;
    setTerms(this.#facts, factsOf(job));
    setTerms(this.#kept, keptOf(job));
    this.#showTexts(job);
  }

  #showTexts(job) {
    setText(this.#error, job.error ?? "");
    setText(this.#args, JSON.stringify(job.args, null, 2));
    setTerms(this.#details, Object.entries(job.details).map(([name, value]) => [name, shown(value)]));
    setText(this.#result, job.result == null ? "" : JSON.stringify(job.result, null, 2));
    const file = job.status === "completed" && job.result?.file;
    if (file && !this.#file.children.length) this.#file.append(downloadLink(job));
    for (const node of [this.#error, this.#details, this.#result]) node.closest("section").hidden = !node.textContent;
  }

  #build(job) {
    this.#buttons = new Buttons(job, {
      reason: () => this.#reason.value.trim(),
      onChange: (changed) => {
        this.#asked++;
        this.#reason.value = "";
        this.#show(changed);
        this.#refreshSoon();
      },
    });
    this.#controls.append(this.#buttons.element);
    const labels = Object.entries(job.labels).map(([name, value]) => labelLink(name, value));
    const head = h(
      "header",
      {},
      h("div", { class: "title" }, h("span", { role: "status" }, this.#badge), h("h1", {}, job.type), h("span", { class: "id" }, h("code", {}, job.id), copyButton(job.id))),
      labels.length ? h("div", { class: "labels" }, labels) : null,
      this.#latest,
      this.#alarm,
    );
    const progress = h("section", { class: "card now", "aria-label": "Progress" }, this.#bar, this.#figures, this.#message, this.#controls);
    const main = [
      card("Error", this.#error),
      card("Result", this.#file, this.#result),
      card("Log", this.#log.element),
      card("What happened", this.#timeline.element),
    ];
    const side = [card("Kept", this.#kept), card("Details", this.#details), card("Facts", this.#facts), card("Arguments", this.#args)];
    this.element.lastElementChild.remove();
    this.element.append(head, progress, h("div", { class: "columns" }, h("div", {}, main), h("div", {}, side)));
  }

  #complain(error) {
    this.leave();
    this.element.lastElementChild.replaceWith(h("section", { class: "empty" }, h("h2", {}, "There is no such job"), h("p", {}, error.message)));
  }
}

function card(title, ...content) {
  return h("section", { class: "card", "aria-label": title }, h("h2", {}, title), content);
}

function time(at) {
  const node = h("time");
  setTime(node, at);
  return node;
}

function factsOf(job) {
  const isHeld = job.lease && ["running", "halting", "stopping"].includes(job.status);
  return [
    ["Submitted", time(job.submitted_at)],
    ["Not before", job.run_at > job.submitted_at && job.status === "submitted" && time(job.run_at)],
    ["Began", job.started_at && time(job.started_at)],
    ["Ended", job.finished_at && time(job.finished_at)],
    ["At work for", job.run_seconds > 0 && duration(job.run_seconds)],
    ["Attempt", job.attempt > 0 && number(job.attempt)],
    ["Failures", (job.failures > 0 || job.max_attempts > 1) && `${number(job.failures)} of ${number(job.max_attempts)} tries`],
    ["Crashes", job.crashes > 0 && number(job.crashes)],
    ["Priority", job.priority !== 0 && number(job.priority)],
    ["Timeout", job.timeout_seconds && duration(job.timeout_seconds)],
    ["Halt expected within", job.expected_halt_seconds != null && job.status === "running" && duration(job.expected_halt_seconds)],
    ["Process", isHeld && job.lease.owner],
    ["Lease", isHeld && `${duration(job.lease.seconds_left)} left`],
  ].map(([term, value]) => [term, value || null]);
}

function keptOf({ checkpoint }) {
  if (!checkpoint) return [["Checkpoint", "none yet"]];
  return [
    ["Checkpoint", number(checkpoint.seq)],
    ["Saved", time(checkpoint.saved_at)],
    ["Done by then", checkpoint.done == null ? null : number(checkpoint.done)],
  ];
}

/** Return the link to the file that a job made. With a token the file is asked for by script: links cannot send one. */
function downloadLink(job) {
  const name = job.result.filename ?? job.result.file;
  const href = jobPath(job.id, "/artifact");
  return h("a", { class: "button primary", href, download: name, onclick: (event) => token() && save(event, href, name) }, `Download ${name}`);
}

async function save(event, path, name) {
  event.preventDefault();
  try {
    const answer = await request(path);
    const href = URL.createObjectURL(await answer.blob());
    h("a", { href, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60_000);
  } catch (error) {
    sayError(error);
  }
}
