// How many jobs there are, by type and status, as the service tells Prometheus.

import { request } from "./api.js";

const SAMPLE = /^jobmanager_jobs\{(.*)\} (\S+)$/gm;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Counting takes long where there are very many jobs: it is asked for no more than this part of the time. */
const SHARE = 0.05;

/** The numbers that the metrics know: by status, of all jobs or of one type; nothing of labels, times and searches. */
export class Counts {
  #types = null;
  #nextAt = 0;

  /** Ask for them, unless that was done a moment ago. A token that may see some types only may not; it gets none. */
  async refresh() {
    const began = performance.now();
    if (began < this.#nextAt) return;
    this.#nextAt = Infinity;
    try {
      const answer = await request("metrics");
      this.#types = read(await answer.text());
      this.#nextAt = began + (performance.now() - began) / SHARE;
    } catch (error) {
      if (error.status !== 403) this.#nextAt = 0;
    }
  }

  /** Return the number of jobs in each status of those that the filter means, whatever its own; null if not known. */
  of(filter) {
    const others = [...filter.keys()].filter((name) => !["status", "type", "cursor"].includes(name));
    if (!this.#types || others.length) return null;
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
    const { type, status } = Object.fromEntries([...labels.matchAll(LABEL)].map(([, name, text]) => [name, unescape(text)]));
    (types[type] ??= {})[status] = Number(value);
  }
  return types;
}

function unescape(text) {
  return text.replace(/\\(.)/g, (_, character) => (character === "n" ? "\n" : character));
}
