// How many jobs there are, by type and status, as the service tells Prometheus.

import { request } from "./api.js";
import { besidesStatus } from "./filters.js";

const SAMPLE = /^jobmanager_jobs\{(.*)\} (\S+)$/gm;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** The metrics tell of much else, from all workers: they are asked for no more than this part of the time. */
const SHARE = 0.05;

/** The numbers that the metrics know: by status, of all jobs or of one type; nothing of labels, times and searches. */
export class Counts {
  #types = null;
  #timer = null;
  #nextAt = 0;
  #onChange;

  /** `onChange()` is called whenever they are known anew. */
  constructor(onChange) {
    this.#onChange = onChange;
  }

  /** Ask for them soon. */
  refresh() {
    this.#timer ??= setTimeout(() => this.ask(), this.#nextAt - performance.now());
  }

  /** Ask for them now; they are known when this returns, if they can be. */
  async ask() {
    const began = performance.now();
    try {
      const answer = await request("metrics");
      this.#types = read(await answer.text());
    } catch (error) {
      // A token that may see some types only may not know; there is no use in asking again.
      if (error.status === 403) return;
    }
    this.#nextAt = began + (performance.now() - began) / SHARE;
    this.#timer = null;
    this.#onChange();
  }

  /** Return the number of jobs in each status of those that the filter means, whatever its own; null if not known. */
  of(filter) {
    const others = besidesStatus(filter);
    others.delete("type");
    if (!this.#types || others.size) return null;
    const type = filter.get("type");
    const sums = {};
    for (const [name, byStatus] of Object.entries(this.#types)) {
      if (type && name !== type) continue;
      for (const [status, count] of Object.entries(byStatus)) sums[status] = (sums[status] ?? 0) + count;
    }
    return sums;
  }
}

function read(text) {
  const types = {};
  for (const [, labels, value] of text.matchAll(SAMPLE)) {
    const { type, status } = Object.fromEntries(
      [...labels.matchAll(LABEL)].map(([, name, text]) => [name, unescape(text)]),
    );
    (types[type] ??= {})[status] = Number(value);
  }
  return types;
}

function unescape(text) {
  return text.replace(/\\(.)/g, (_, character) => (character === "n" ? "\n" : character));
}
