// The log of a job: its last lines, and those that come.

import { ask, jobPath } from "./api.js";
import { h } from "./dom.js";
import { number } from "./format.js";

const PAGE = 5000;
const MOST_SHOWN = 2000;
/** A line that is longer would make the page slow; the API has it all. */
const LONGEST = 2000;
/** Colours of a terminal (ECMA-48, SGR). */
const COLOURS = /\x1b\[[\d;]*m/g;

/** The end of a job's log; it stays at the end unless somebody has scrolled up. */
export class LogTail {
  #id;
  #last = 0;
  #reading = null;
  element = h(
    "div",
    { class: "log", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Log" },
    h("p", { class: "hint" }, "It has logged nothing yet."),
  );

  constructor(id) {
    this.#id = id;
  }

  /** Read on from the last line there is; one at a time. */
  read() {
    this.#reading ??= this.#readOn().finally(() => {
      this.#reading = null;
    });
    return this.#reading;
  }

  async #readOn() {
    let lines;
    do {
      ({ lines } = await ask(jobPath(this.#id, `/log?after=${this.#last}&limit=${PAGE}`)));
      if (lines.length) this.#append(lines);
      // A page is bounded by bytes too, and may be short: only an empty one is the last.
    } while (lines.length);
  }

  #append(lines) {
    const log = this.element;
    const isAtEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    if (!this.#last) log.replaceChildren();
    this.#last = lines.at(-1).number;
    log.append(...lines.slice(-MOST_SHOWN).map(show));
    while (log.children.length > MOST_SHOWN) log.firstElementChild.remove();
    if (isAtEnd) log.scrollTop = log.scrollHeight;
  }
}

function show({ at, level, message }) {
  return h(
    "div",
    { class: "line", "data-level": level },
    h("span", { class: "at", title: `${at} (UTC)` }, at.slice(11, 19)),
    h("span", { class: "level" }, level),
    h("span", { class: "text" }, clip(message.replace(COLOURS, ""))),
  );
}

function clip(text) {
  const rest = text.length - LONGEST;
  return rest > 0 ? `${text.slice(0, LONGEST)}… and ${number(rest)} characters more` : text;
}
