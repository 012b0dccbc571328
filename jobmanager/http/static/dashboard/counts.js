// The numbers of jobs by type and status, from the service's Prometheus metrics.

import { request } from "./api.js";
import { besidesStatus } from "./filters.js";

const SAMPLE = /^jobmanager_jobs\{(.*)\} (\S+)$/gm;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Metrics are expensive, as they cover all workers. At most this share of the time is spent on loading them. */
const SHARE = 0.05;

/** Numbers of jobs by status, of all jobs or of one type. The metrics have none for labels, times and searches. */
export class Counts {
  #types = null;
  #timer = null;
  #nextAt = 0;
  #onChange;

  /** `onChange()` is called after each request for the numbers, unless the service has forbidden the request. */
  constructor(onChange) {
    this.#onChange = onChange;
  }

  /** Load the numbers soon. Does not wait. */
  refresh() {
    this.#timer ??= setTimeout(() => this.ask(), this.#nextAt - performance.now());
  }

  /** Load the numbers now. Keeps the old ones if the request fails. */
  async ask() {
    const began = performance.now();
    try {
      const answer = await request("metrics");
      this.#types = read(await answer.text());
    } catch (error) {
      // A token for some types only may not read metrics. #timer stays set, so that `refresh` does not ask again.
      if (error.status === 403) return;
    }
    this.#nextAt = began + (performance.now() - began) / SHARE;
    this.#timer = null;
    this.#onChange();
  }

  /** Return the number of jobs in each status that match the rest of the filter; null if the numbers are not known. */
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
