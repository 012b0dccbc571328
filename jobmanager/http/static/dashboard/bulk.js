// Halt, resume and stop of all jobs that the filter selects.

import { ask } from "./api.js";
import { ACTIONS, heedRefusal, labelOf } from "./control.js";
import { confirm, finality, tell } from "./dialogs.js";
import { h } from "./dom.js";
import { besidesStatus, openTo } from "./filters.js";
import { number, short } from "./format.js";
import { say, sayError } from "./notices.js";
import { jobLink } from "./parts.js";
import { refusal } from "./token.js";

/** If the metrics lack the numbers, jobs are counted in a page of the list. This is the size of the page. */
const MOST_COUNTED = 500;
const MOST_LISTED = 100;

/** The buttons for all jobs of the list. */
export class Bulk {
  #counts;
  #onChange;
  #filter = new URLSearchParams();
  #buttons;
  #isAsking = false;

  constructor(counts, onChange) {
    this.#counts = counts;
    this.#onChange = onChange;
    this.#buttons = ACTIONS.map((action) =>
      h("button", { class: `quiet ${action}`, onclick: () => this.#press(action) }, `${labelOf(action)} all…`),
    );
    this.element = h("div", { class: "bulk", role: "group", "aria-label": "All jobs in this list" }, this.#buttons);
  }

  /** Show the buttons for a filter. Hides an action if no status of the filter allows it. */
  show(filter) {
    this.#filter = filter;
    this.#buttons.forEach((button, place) => {
      button.hidden = !openTo(ACTIONS[place], filter).length;
      button.setAttribute("aria-disabled", Boolean(refusal()));
      button.title = refusal();
    });
  }

  async #press(action) {
    if (refusal()) return say(refusal(), { isError: true });
    if (this.#isAsking) return;
    this.#isAsking = true;
    const filter = new URLSearchParams(this.#filter);
    try {
      const { counted, isMore } = await this.#count(action, filter);
      const sum = counted.reduce((whole, [, count]) => whole + count, 0);
      if (!sum) return say(`There are no jobs to ${action} in this list.`);
      const reason = await confirmAll(action, filter, counted, `${number(sum)}${isMore ? " or more" : ""}`);
      if (reason === null) return;
      showOutcome(action, await ask(`jobs/${action}`, { body: selection(action, filter, reason), signal: null }));
      this.#onChange();
    } catch (error) {
      heedRefusal(error);
      sayError(error);
    } finally {
      this.#isAsking = false;
    }
  }

  /** Count the jobs in each status that allows the action. `isMore` is true if there are more than were counted. */
  async #count(action, filter) {
    const statuses = openTo(action, filter);
    await this.#counts.ask();
    const known = this.#counts.of(filter);
    if (known) return { counted: pairs(statuses, known), isMore: false };
    const query = besidesStatus(filter);
    for (const status of statuses) query.append("status", status);
    query.set("limit", MOST_COUNTED);
    const { jobs, next_cursor: more } = await ask(`jobs?${query}`);
    const found = {};
    for (const { status } of jobs) found[status] = (found[status] ?? 0) + 1;
    return { counted: pairs(statuses, found), isMore: Boolean(more) };
  }
}

function pairs(statuses, counts) {
  return statuses.filter((status) => counts[status]).map((status) => [status, counts[status]]);
}

/** Return the request body that selects all jobs of the filter that allow the action. It always lists statuses. */
function selection(action, filter, reason) {
  const body = { status: openTo(action, filter), reason: reason || null };
  for (const name of ["type", "q", "submitted_after", "submitted_before"]) {
    if (filter.get(name)) body[name] = filter.get(name);
  }
  if (filter.has("label")) body.label = filter.getAll("label");
  return body;
}

function confirmAll(action, filter, counted, sum) {
  const isFinal = action === "stop";
  const others = [...besidesStatus(filter)].map(([name, value]) => `${name} ${value}`).join(", ");
  return confirm({
    title: `${labelOf(action)} ${sum} ${sum === "1" ? "job" : "jobs"}?`,
    lines: [
      h("p", {}, counted.map(([status, count]) => `${number(count)} ${status}`).join(", "), "."),
      h("p", {}, others ? `Only jobs with ${others}.` : "This affects all jobs in these statuses."),
      isFinal && finality("The jobs cannot be resumed, and what they have done is rolled back."),
    ],
    yes: `${labelOf(action)} ${sum}`,
    no: isFinal ? "Leave them" : "Cancel",
    isFinal,
  });
}

function showOutcome(action, { changed, changed_ids: ids, unchanged }) {
  tell(`${labelOf(action)} requested for ${number(changed)} ${changed === 1 ? "job" : "jobs"}`, [
    listed(ids.map((id) => ({ id, reason: "" }))),
    unchanged.length > 0 && h("h3", {}, `${number(unchanged.length)} did not change`),
    listed(unchanged),
  ]);
}

function listed(jobs) {
  const lines = jobs
    .slice(0, MOST_LISTED)
    .map(({ id, reason }) => h("li", {}, jobLink(id, { title: id }, short(id)), ` ${reason}`));
  const rest = jobs.length - lines.length;
  return h("ul", { class: "ids" }, lines, rest > 0 && h("li", {}, `and ${number(rest)} more`));
}
