// The log of a job: its last lines, and new ones as they come.

import { ask, jobPath } from "./api.js";
import { h } from "./dom.js";
import { number } from "./format.js";

const PAGE = 5000;
const MOST_SHOWN = 2000;
/** Number of characters after which a line is cut, because longer ones slow down the page. */
const LONGEST = 2000;
/** Terminal colour codes (ECMA-48, SGR). */
const COLOURS = /\x1b\[[\d;]*m/g;

/** The end of a job's log. Scrolls to new lines unless the reader has scrolled up. */
export class LogTail {
  #id;
  #last = 0;
  #reading = null;
  element = h(
    "div",
    { class: "log", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Log" },
    h("p", { class: "hint" }, "No log lines yet."),
  );

  constructor(id) {
    this.#id = id;
  }

  /** Load the lines after the last one. Concurrent calls share one request. */
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
      // The service limits the bytes of a page too, so a short page need not be the last. An empty one is.
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
  return rest > 0 ? `${text.slice(0, LONGEST)}… and ${number(rest)} more characters` : text;
}
