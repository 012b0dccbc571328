// Halt, resume and stop of one job: its buttons, and what is asked and told around them.

import { ask, jobPath } from "./api.js";
import { confirm, finality } from "./dialogs.js";
import { h, setAttribute, setText, setTerms, terms } from "./dom.js";
import { distance, doneOf, duration, nameOf, number } from "./format.js";
import { say, sayError } from "./notices.js";
import { keepRefusal, refusal } from "./token.js";

/** By status, what may be asked of a job: the service's own table, which the page came with. */
export const LIFE = JSON.parse(document.body.dataset.life);
export const STATUSES = Object.keys(LIFE);
/** In which statuses somebody is at work on a job, or should be. */
export const ATTENDED = JSON.parse(document.body.dataset.attended);
export const ACTIONS = ["halt", "resume", "stop"];
/** Long enough for nearly every halt to be reached: the answer then tells that it is done, not only asked for. */
const WAIT_SECONDS = 2;

/** Return an action as a button has it. */
export function labelOf(action) {
  return action[0].toUpperCase() + action.slice(1);
}

/** The buttons of a job. Each has a place of its own, so that a second click never lands on another one. */
export class Buttons {
  #job;
  #onChange;
  #reason;
  #buttons;
  #isAsking = false;

  /** `onChange(job)` is called with what became of the job; `reason()` tells what was typed as one. */
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
    setAttribute(this.element, "aria-label", `What may be asked of ${nameOf(job)}`);
    const isForce = canForce(job);
    this.#buttons.forEach((button, place) => {
      const action = ACTIONS[place];
      const isAllowed = LIFE[job.status].includes(action) || (action === "stop" && isForce);
      setAttribute(button, "aria-label", `${labelOf(action)}${isForce ? " by force" : ""}: ${nameOf(job)}`);
      if (!isAllowed && button === document.activeElement) this.#letGoOfFocus();
      button.toggleAttribute("data-absent", !isAllowed);
      button.setAttribute("aria-disabled", Boolean(this.#isAsking || refusal()));
      button.title = refusal();
    });
    this.element.hidden = this.#buttons.every((button) => button.hasAttribute("data-absent"));
    const stop = this.#buttons.at(-1);
    setText(stop, isForce ? "Force stop" : "Stop");
    stop.classList.toggle("danger", isForce);
  }

  /** A key that is pressed once more must not find the focus on a button that does something else. */
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
      if (!body.force) heedRefusal(error); // force takes more than any other change
      sayError(error);
      // It went on before the click.
      if (error.status === 409) await ask(jobPath(this.#job.id)).then(this.#onChange, sayError);
    } finally {
      this.#isAsking = false;
      this.update(this.#job);
    }
  }
}

/** Keep that the token may change nothing, if that is what is wrong: what any operator may do was refused. */
export function heedRefusal(error) {
  if (error.kind !== "forbidden") return;
  keepRefusal(error.message);
  document.dispatchEvent(new CustomEvent("refused"));
}

/** Tell whether only force ends the job: it was asked to stop, and does not answer. */
function canForce(job) {
  return job.unresponsive && !job.forced;
}

function outcome(job) {
  const kept = job.status === "halted" && doneOf(job.progress);
  const soon = job.status === "halting" && job.expected_halt_seconds;
  return [
    `${nameOf(job)} is ${job.status}.`,
    kept && `Kept: ${kept}.`,
    soon && `It takes about ${duration(soon)} to its next checkpoint.`,
  ]
    .filter(Boolean)
    .join(" ");
}

/** Ask whether the job is to end for good; returns the body of the request, or null. */
async function confirmStop(job, typed) {
  const force = canForce(job);
  const known = terms();
  const { checkpoint } = job;
  setTerms(known, [
    ["Job", nameOf(job)],
    ["Done so far", doneOf(job.progress) || (job.attempt ? "it does not tell" : "nothing: it has not begun")],
    ["Checkpoint", checkpoint && `${number(checkpoint.seq)}, saved ${distance(checkpoint.saved_at)}`],
    ...Object.entries(job.details).map(([name, value]) => [name, shown(value)]),
  ]);
  const reason = await confirm({
    title: force ? `Force this ${job.type} to stop?` : `Stop this ${job.type} for good?`,
    lines: [
      force && h("p", {}, "It does not answer. Force interrupts its code, and abandons what does not end by that."),
      finality("It cannot be resumed, and what it has done is rolled back:"),
      known,
      LIFE[job.status].includes("halt") &&
        h("p", { class: "hint" }, "Not sure? Halt it instead: that keeps everything."),
    ],
    yes: force ? "Force it to stop" : "Stop and roll back",
    no: "Leave it",
    isFinal: true,
  });
  return reason === null ? null : { reason: reason || typed || null, ...(force && { force }) };
}

/** Return a value of JSON as people read it. */
export function shown(value) {
  if (Number.isInteger(value)) return number(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}
