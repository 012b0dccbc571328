// The log of a job: its last lines, and those that come.

import { ask, jobPath } from "./api.js";
import { h } from "./dom.js";

const PAGE = 5000;
const MOST_SHOWN = 2000;

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
    } while (lines.length === PAGE);
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
    h("span", { class: "at", title: at }, at.slice(11, 19)),
    h("span", { class: "level" }, level),
    h("span", { class: "text" }, message),
  );
}
