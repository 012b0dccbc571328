// The page of one job: load the job, and keep the page up to date.

import { NoAnswer, ask, jobPath } from "./api.js";
import { showConnection } from "./connection.js";
import { h, throttled, visible } from "./dom.js";
import { JobView } from "./jobview.js";
import { follow, isForGood } from "./live.js";
import { LogTail } from "./log.js";
import { sayError } from "./notices.js";
import { viewLink } from "./parts.js";
import { Timeline } from "./timeline.js";

const REFRESH_MILLISECONDS = 1000;
/** Time between two refreshes while only the progress changes. A refresh also loads the rest, such as the log. */
const LOOK_MILLISECONDS = 3000;

/** The page of a job. */
export class JobPage {
  id;
  #job = null;
  #view = null;
  #isAhead = false; // the stream has sent progress since the last refresh began
  #asked = 0; // the number of the last refresh: answers to earlier ones are ignored
  #unfollow;
  #log;
  #timeline = new Timeline();
  #refreshSoon = throttled(() => this.refresh(), REFRESH_MILLISECONDS);
  #lookSoon = throttled(() => this.refresh(), LOOK_MILLISECONDS);

  constructor(id) {
    this.id = id;
    this.title = id;
    this.#log = new LogTail(id);
    const back = viewLink("", { class: "back" }, "← All jobs");
    this.element = h("article", { class: "job", "data-job": id }, back, h("p", { class: "hint" }, "Loading…"));
    this.refresh();
    this.#unfollow = follow(jobPath(id, "/events"), {
      onEvent: (name, data) => this.#heed(name, data),
      onRefresh: () => this.refresh(),
      onState: showConnection,
    });
  }

  /** Stop following the job. Ignores answers that still arrive. */
  leave() {
    this.#asked = Infinity;
    this.#unfollow();
  }

  /** Load the job, its changes and its log, and show them. */
  async refresh() {
    const asked = ++this.#asked;
    if (asked === Infinity) return; // the page was left
    this.#isAhead = false;
    try {
      const [job, { changes }] = await Promise.all([ask(jobPath(this.id)), ask(jobPath(this.id, "/changes"))]);
      if (asked !== this.#asked) return;
      for (const change of changes) this.#timeline.add(change);
      this.#show(this.#isAhead ? { ...job, progress: this.#job.progress } : job);
      await this.#log.read();
    } catch (error) {
      if (asked !== this.#asked || error instanceof NoAnswer) return; // the banner reports a lost connection
      if (error.status === 404 || (isForGood(error) && !this.#view)) this.#complain(error);
      else sayError(error);
    }
  }

  #heed(name, data) {
    if (name === "job") {
      this.#asked++; // ignore an answer under way: it is older than this event
      this.#show(data);
      this.#refreshSoon();
    } else if (name === "progress" && this.#job) {
      this.#isAhead = true;
      this.#show({ ...this.#job, progress: data });
      this.#lookSoon();
    } else if (name === "change" && this.#timeline.add(data)) {
      // A stream begins with past changes: those that are shown already need no refresh.
      this.#refreshSoon();
    }
  }

  #show(job) {
    this.#job = job;
    if (!this.#view) this.#enter(job);
    this.#view.update(job);
    document.title = visible(`${job.status} · ${job.type} · Job manager`);
  }

  #enter(job) {
    const onChange = (changed) => {
      this.#asked++; // ignore an answer under way: it lacks this change
      this.#show(changed);
      this.#refreshSoon();
    };
    this.#view = new JobView(job, { timeline: this.#timeline, log: this.#log, onChange });
    this.element.lastElementChild.replaceWith(...this.#view.elements);
  }

  #complain(error) {
    this.leave();
    showConnection("over");
    const isMissing = error.status === 404 || error.status === 405; // 405: the id is the name of another route
    const title = isMissing ? "There is no such job" : "This job cannot be shown";
    const text = [h("h2", {}, title), h("p", {}, error.message)];
    this.element.replaceChildren(this.element.firstElementChild, h("section", { class: "empty" }, text));
  }
}
