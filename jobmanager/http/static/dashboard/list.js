// The list of jobs.

import { NoAnswer, ask, jobPath } from "./api.js";
import { Bulk } from "./bulk.js";
import { showConnection } from "./connection.js";
import { ATTENDED } from "./control.js";
import { Counts } from "./counts.js";
import { arrange, h, setText, throttled } from "./dom.js";
import { emptiness, notice } from "./empty.js";
import { Filters } from "./filters.js";
import { number } from "./format.js";
import { follow } from "./live.js";
import { sayError } from "./notices.js";
import { alarmOf, viewLink } from "./parts.js";
import { Row } from "./row.js";

const REFRESH_MILLISECONDS = 1000;
/** How long rows keep their place after the mouse has moved over them. */
const STILL_MILLISECONDS = 3000;
/** Most active jobs that are searched for stuck ones. There are seldom more, because each running job needs a slot. */
const MOST_ATTENDED = 200;

/** The page with the list. `go(query, replace)` navigates to another view. */
export class ListPage {
  #filter = null;
  #rows = new Map();
  #acted = new Set(); // jobs changed on this page: they stay visible when they no longer match the filter
  #told = new Set(); // jobs with events since the last refresh began: the events are newer than the answer
  #asked = 0; // the number of the last refresh: answers to earlier ones are ignored
  #stream = "";
  #unfollow = () => undefined;
  #counts = new Counts(() => this.#filters.count(this.#counts.of(this.#filter)));
  #filters;
  #bulk;
  #summary = h("p", { class: "summary" });
  #pointedAt = -Infinity;
  #body = h("tbody", {
    role: "rowgroup",
    onpointermove: () => (this.#pointedAt = performance.now()),
    onpointerleave: () => {
      this.#pointedAt = -Infinity;
      this.#refreshSoon();
    },
  });
  #table;
  #empty = h("section", { class: "empty", hidden: true });
  #newest = viewLink("", { class: "button", hidden: true }, "← Newest");
  #older = viewLink("", { class: "button", hidden: true }, "Older →");
  #refreshSoon = throttled(() => this.refresh(), REFRESH_MILLISECONDS);

  constructor(go) {
    this.#filters = new Filters(go);
    this.#bulk = new Bulk(this.#counts, this.#refreshSoon);
    this.#bulk.element.hidden = true;
    this.#table = h("table", { class: "jobs", role: "table", hidden: true }, head(), this.#body);
    this.element = h("div", { class: "list" }, [
      h("h1", { class: "unseen" }, "Jobs"),
      this.#filters.element,
      h("div", { class: "above" }, this.#summary, this.#bulk.element),
      this.#table,
      this.#empty,
      h("nav", { class: "pager", "aria-label": "Pages" }, this.#newest, this.#older),
    ]);
    this.title = "Jobs";
    ask("job-types").then(({ job_types: types }) => this.#filters.offer(types.map(({ type }) => type)), sayError);
  }

  /** Show the jobs that match a query of GET /jobs. */
  show(query) {
    this.#filter = query;
    this.element.setAttribute("aria-busy", "true"); // until the answer, the rows are those of the old filter
    this.#acted.clear();
    this.#filters.show(query);
    this.#filters.count(this.#counts.of(query));
    this.#bulk.show(query);
    this.refresh();
    const told = [...query].filter(([name]) => name === "type" || name === "label"); // streams support no other filters
    const stream = `events?${new URLSearchParams(told)}`;
    if (stream === this.#stream) return;
    this.#stream = stream;
    this.#unfollow();
    this.#unfollow = follow(stream, {
      onEvent: (name, data) => this.#heed(name, data),
      onRefresh: () => this.refresh(),
      onState: showConnection,
    });
  }

  /** Stop following the list. Ignores answers that still arrive. */
  leave() {
    this.#asked = Infinity;
    this.#filters.leave();
    this.#unfollow();
  }

  /** Load the jobs, and show them. */
  async refresh() {
    const asked = ++this.#asked;
    if (asked === Infinity) return; // the page was left
    this.#told.clear();
    this.#counts.refresh();
    try {
      const [alarmed, page] = await Promise.all([this.#alarmed(), ask(`jobs?${this.#filter}`)]);
      const kept = await this.#stillSeen(page.jobs);
      if (asked !== this.#asked) return;
      const jobs = [...page.jobs, ...kept];
      jobs.sort((one, other) => Date.parse(other.submitted_at) - Date.parse(one.submitted_at));
      this.#draw(unique([...alarmed, ...jobs]), page.next_cursor);
    } catch (error) {
      if (asked !== this.#asked || error instanceof NoAnswer) return; // the banner reports a lost connection
      if (error.status === 422) this.#reveal(notice("This list cannot be shown", error.message));
      else sayError(error);
    }
  }

  /** Return the active jobs that need attention, however old they are. Returns no jobs if there is a filter. */
  async #alarmed() {
    if (this.#filter.size) return [];
    const query = new URLSearchParams([...ATTENDED.map((status) => ["status", status]), ["limit", MOST_ATTENDED]]);
    const { jobs } = await ask(`jobs?${query}`);
    return jobs.filter(alarmOf);
  }

  async #stillSeen(jobs) {
    const there = new Set(jobs.map(({ id }) => id));
    const missing = [...this.#acted].filter((id) => !there.has(id));
    const answers = await Promise.allSettled(missing.map((id) => ask(jobPath(id))));
    return answers.flatMap(({ value }) => value ?? []);
  }

  #draw(jobs, next) {
    for (const job of jobs) {
      const { status, progress } = this.#rows.get(job.id)?.job ?? {};
      this.#rows.get(job.id)?.update(this.#told.has(job.id) ? { ...job, status, progress } : job);
    }
    const isSame = String(jobs.map(({ id }) => id)) === String([...this.#rows.keys()]);
    if (!isSame && this.#isPointedAt()) {
      setTimeout(this.#refreshSoon, STILL_MILLISECONDS);
      return setText(this.#summary, "The order is fixed while you point at a row");
    }
    this.#rows = new Map(jobs.map((job) => [job.id, this.#rows.get(job.id) ?? this.#makeRow(job)]));
    arrange(
      this.#body,
      Array.from(this.#rows.values(), ({ element }) => element),
    );
    setText(this.#summary, jobs.length ? this.#summaryOf(jobs.length, next) : "");
    this.#newest.hidden = !this.#filter.has("cursor");
    this.#newest.href = pageOf(this.#filter);
    this.#older.hidden = !next;
    this.#older.href = pageOf(this.#filter, next);
    return this.#reveal(jobs.length ? [] : emptiness(this.#filter));
  }

  /** Show the table, or `instead` in its place. Does not replace an equal text, so that its link keeps the focus. */
  #reveal(instead) {
    this.element.setAttribute("aria-busy", "false");
    this.#table.hidden = this.#bulk.element.hidden = instead.length > 0;
    this.#empty.hidden = !instead.length;
    const text = instead.map((part) => part.textContent).join("");
    if (this.#empty.textContent !== text) this.#empty.replaceChildren(...instead);
  }

  /** Return true if the mouse was just moved over the rows. If the rows moved now, a click could hit another job. */
  #isPointedAt() {
    const isBusy = this.element.getAttribute("aria-busy") === "true"; // loading another filter
    return !isBusy && performance.now() - this.#pointedAt < STILL_MILLISECONDS;
  }

  #makeRow(job) {
    return new Row(job, {
      onChange: (changed) => {
        this.#asked++; // ignore an answer under way: it lacks this change
        this.#acted.add(changed.id);
        this.#rows.get(changed.id)?.update(changed);
        this.#refreshSoon();
      },
    });
  }

  #heed(name, data) {
    const row = this.#rows.get(data.job_id);
    this.#told.add(data.job_id);
    if (name === "change") {
      row?.update({ ...row.job, status: data.to_status });
      this.#refreshSoon();
    } else if (name === "progress") {
      row?.update({ ...row.job, progress: data });
    }
  }

  #summaryOf(shown, next) {
    const isWhole = !next && !this.#filter.has("cursor");
    const jobs = `${number(shown)} ${shown === 1 ? "job" : "jobs"}`;
    return isWhole ? `${jobs}, newest first` : `${jobs} on this page, newest first`;
  }
}

/** Return the address of a page of the list; the first page if there is no cursor. */
function pageOf(filter, cursor = "") {
  const query = new URLSearchParams(filter);
  query.delete("cursor");
  if (cursor) query.set("cursor", cursor);
  return `?${query}`;
}

/** Return the jobs without duplicates. */
function unique(jobs) {
  return [...new Map(jobs.map((job) => [job.id, job])).values()];
}

/** Return the table head. Roles are explicit: a table loses its own if CSS changes its display, as on small screens. */
function head() {
  const names = ["Status", "Job", "Progress", "Submitted", "Actions"];
  const cells = names.map((name) => h("th", { scope: "col", role: "columnheader" }, name));
  return h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, cells));
}
