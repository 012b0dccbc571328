// Halt, resume and stop of one job: its buttons, and their dialogs, requests and messages.

import { ask, jobPath } from "./api.js";
import { confirm, finality } from "./dialogs.js";
import { h, setAttribute, setText, setTerms, terms } from "./dom.js";
import { distance, doneOf, duration, nameOf, number } from "./format.js";
import { say, sayError } from "./notices.js";
import { keepRefusal, refusal } from "./token.js";

/** The actions that each status allows: the service's own table, which is embedded in the page. */
export const LIFE = JSON.parse(document.body.dataset.life);
export const STATUSES = Object.keys(LIFE);
/** The statuses in which a thread works on the job, unless its process has died. */
export const ATTENDED = JSON.parse(document.body.dataset.attended);
export const ACTIONS = ["halt", "resume", "stop"];
/** How long the service may wait, before it answers, for the action to take effect. Nearly every job halts in time. */
const WAIT_SECONDS = 2;

/** Return the label of an action's button. */
export function labelOf(action) {
  return action[0].toUpperCase() + action.slice(1);
}

/** The buttons of a job. Each has a fixed place, so that a second click never hits another button. */
export class Buttons {
  #job;
  #onChange;
  #reason;
  #buttons;
  #isAsking = false;

  /** `onChange(job)` is called with the changed job; `reason()` returns the reason that was typed. */
  constructor(job, { onChange, reason = () => "" }) {
    this.#onChange = onChange;
    this.#reason = reason;
    this.#buttons = ACTIONS.map((action) =>
      h("button", { class: `action ${action}`, onclick: () => this.#press(action) }, labelOf(action)),
    );
    this.element = h("div", { class: "actions", role: "group" }, this.#buttons);
    this.update(job);
  }

  /** Show the buttons that the job's status allows. */
  update(job) {
    this.#job = job;
    setAttribute(this.element, "aria-label", `Actions for ${nameOf(job)}`);
    const isForce = canForce(job);
    this.#buttons.forEach((button, place) => {
      const action = ACTIONS[place];
      const isAllowed = LIFE[job.status].includes(action) || (action === "stop" && isForce);
      const label = action === "stop" && isForce ? "Force stop" : labelOf(action);
      setText(button, label);
      setAttribute(button, "aria-label", `${label}: ${nameOf(job)}`);
      if (!isAllowed && button === document.activeElement) this.#letGoOfFocus();
      button.toggleAttribute("data-absent", !isAllowed);
      button.setAttribute("aria-disabled", Boolean(this.#isAsking || refusal()));
      button.title = refusal();
    });
    this.element.hidden = this.#buttons.every((button) => button.hasAttribute("data-absent"));
    this.#buttons.at(-1).classList.toggle("danger", isForce);
  }

  /** Move the focus to the job's link: a key that is pressed again must not trigger another action. */
  #letGoOfFocus() {
    this.element.closest("[data-job]").querySelector("a").focus();
  }

  async #press(action) {
    if (refusal()) return say(refusal(), { isError: true });
    if (this.#isAsking) return;
    const body = action === "stop" ? await confirmStop(this.#job, this.#reason()) : { reason: this.#reason() || null };
    if (body === null) return;
    this.#isAsking = true;
    this.update(this.#job);
    try {
      const headers = { Prefer: `wait=${WAIT_SECONDS}` };
      const job = await ask(jobPath(this.#job.id, `/${action}`), { body, headers });
      say(outcome(job));
      this.#onChange(job);
    } catch (error) {
      if (!body.force) heedRefusal(error); // force needs the role admin, other actions do not
      sayError(error);
      // 409: the status had changed before the click. Show the current status.
      if (error.status === 409) await ask(jobPath(this.#job.id)).then(this.#onChange, sayError);
    } finally {
      this.#isAsking = false;
      this.update(this.#job);
    }
  }
}

/** If the token may not perform an action that every operator may, store the refusal, and notify the page. */
export function heedRefusal(error) {
  if (error.kind !== "forbidden") return;
  keepRefusal(error.message);
  document.dispatchEvent(new CustomEvent("refused"));
}

/** Return true if the job does not obey a stop, and force was not used yet. */
function canForce(job) {
  return job.unresponsive && !job.forced;
}

function outcome(job) {
  const kept = job.status === "halted" && doneOf(job.progress);
  const soon = job.status === "halting" && job.expected_halt_seconds;
  return [
    `${nameOf(job)} is ${job.status}.`,
    kept && `Kept: ${kept}.`,
    soon && `The halt may take about ${duration(soon)}.`,
  ]
    .filter(Boolean)
    .join(" ");
}

/** Ask for confirmation of a stop. Returns the body of the request, or null if the answer is no. */
async function confirmStop(job, typed) {
  const force = canForce(job);
  const known = terms();
  const { checkpoint } = job;
  setTerms(known, [
    ["Job", nameOf(job)],
    ["Done so far", doneOf(job.progress) || (job.attempt ? "unknown" : "nothing: the job has not started")],
    ["Checkpoint", checkpoint && `${number(checkpoint.seq)}, saved ${distance(checkpoint.saved_at)}`],
    ...Object.entries(job.details).map(([name, value]) => [name, shown(value)]),
  ]);
  const reason = await confirm({
    title: force ? `Force this ${job.type} to stop?` : `Stop this ${job.type} for good?`,
    lines: [
      force && h("p", {}, "The job does not respond. Force interrupts its code, or else abandons its thread."),
      finality("The job cannot be resumed, and what it has done is rolled back:"),
      known,
      LIFE[job.status].includes("halt") &&
        h("p", { class: "hint" }, "Not sure? Halt the job instead: that keeps its progress."),
    ],
    yes: force ? "Force it to stop" : "Stop and roll back",
    no: "Leave it",
    isFinal: true,
  });
  return reason === null ? null : { reason: reason || typed || null, ...(force && { force }) };
}

/** Return a JSON value as readable text. */
export function shown(value) {
  if (Number.isInteger(value)) return number(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}
