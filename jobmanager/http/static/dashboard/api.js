// The way to the API. Addresses are relative to the page, and so hold under any prefix.

import { heedClock } from "./format.js";
import { keepToken, token } from "./token.js";

/** A connection that died while the computer slept would keep an answer for ever. */
const LONGEST_MILLISECONDS = 30_000;

/** When the service last did what it was asked for, by the clock of performance.now(). */
export let answeredAt = -Infinity;

/** What the service says is wrong (RFC 9457). */
class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `The service answered with status ${status}.`);
    this.status = status;
    this.kind = (body.type ?? "").split(":").at(-1);
    this.errors = body.errors ?? [];
  }
}

/** The service did not answer at all. */
export class NoAnswer extends Error {
  constructor() {
    super("The service does not answer.");
  }
}

/** Return the address of a job, or of something about it. */
export function jobPath(id, rest = "") {
  // Dots alone would lead away from the jobs, however they are written.
  return `jobs/${encodeURIComponent(/^\.*$/.test(id) ? `"${id}"` : id)}${rest}`;
}

/** Return what JSON says. Whole numbers that JavaScript would round keep their digits, here and when they are sent. */
export function parseJson(text) {
  return JSON.parse(text, (_, value, context) =>
    JSON.rawJSON && typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context.source)
      ? JSON.rawJSON(context.source)
      : value,
  );
}

/**
 * Return the answer to a request, whose body, if there is one, is sent as JSON.
 * Throws Problem, and NoAnswer; where a token is needed, the page is told so by the event "token-needed".
 */
export async function request(path, { body, headers = {}, ...rest } = {}) {
  const asking = token();
  const response = await reach(path, {
    ...rest,
    ...(body === undefined ? {} : { method: "POST", body: JSON.stringify(body) }),
    headers: { ...(asking ? { Authorization: `Bearer ${asking}` } : {}), ...headers },
  });
  heedClock(response.headers.get("Date"));
  if (response.ok) {
    answeredAt = performance.now();
    return response;
  }
  const problem = new Problem(response.status, await response.json().catch(() => ({})));
  // An answer to an earlier token says nothing of the present one.
  if (problem.status === 401 && asking === token()) {
    keepToken(null);
    document.dispatchEvent(new CustomEvent("token-needed", { detail: asking ? problem.message : "" }));
  }
  throw problem;
}

/** Return the JSON that a request is answered with, in time unless there is a signal of its own. */
export async function ask(path, options) {
  const response = await request(path, { signal: AbortSignal.timeout(LONGEST_MILLISECONDS), ...options });
  return parseJson(await response.text());
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new NoAnswer();
  }
}
