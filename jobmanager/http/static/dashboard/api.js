// Requests to the API. Addresses are relative to the page, so that they work under any prefix.

import { heedClock } from "./format.js";
import { keepToken, token } from "./token.js";

/** Timeout of a request. Without it, a connection that died while the computer slept would never end. */
const LONGEST_MILLISECONDS = 30_000;

/** Time of the last successful answer, on the clock of performance.now(). */
export let answeredAt = -Infinity;

/** An error that the service reports (RFC 9457). */
class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `The service answered with status ${status}.`);
    this.status = status;
    this.kind = (body.type ?? "").split(":").at(-1);
    this.errors = body.errors ?? [];
  }
}

/** The connection failed or timed out. */
export class NoAnswer extends Error {
  constructor() {
    super("The service does not answer.");
  }
}

/** Return the path of a job, or of one of its resources. */
export function jobPath(id, rest = "") {
  // Put an empty id, or one that consists of dots, in quotes: it would lead to another path. Browsers resolve dots even
  // if they are percent-encoded.
  return `jobs/${encodeURIComponent(/^\.*$/.test(id) ? `"${id}"` : id)}${rest}`;
}

/**
 * Parse JSON. If the browser has JSON.rawJSON, integers that JavaScript would round keep their digits, also when they
 * are sent back.
 */
export function parseJson(text) {
  return JSON.parse(text, (_, value, context) =>
    JSON.rawJSON && typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context.source)
      ? JSON.rawJSON(context.source)
      : value,
  );
}

/**
 * Send a request, and return the response. A `body` is sent as JSON in a POST.
 * Throws Problem or NoAnswer. A 401 also dispatches the event "token-needed".
 */
export async function request(path, { body, headers = {}, ...rest } = {}) {
  const asking = token();
  const response = await arrival(
    fetch(path, {
      ...rest,
      ...(body === undefined ? {} : { method: "POST", body: JSON.stringify(body) }),
      headers: { ...(asking ? { Authorization: `Bearer ${asking}` } : {}), ...headers },
    }),
  );
  heedClock(response.headers.get("Date"));
  if (response.ok) {
    answeredAt = performance.now();
    return response;
  }
  const problem = new Problem(response.status, await response.json().catch(() => ({})));
  // A 401 for an earlier token does not concern the current one.
  if (problem.status === 401 && asking === token()) {
    keepToken(null);
    document.dispatchEvent(new CustomEvent("token-needed", { detail: asking ? problem.message : "" }));
  }
  throw problem;
}

/** Send a request, and return the JSON of its answer. Times out unless `options` has a signal. */
export async function ask(path, options) {
  const response = await request(path, { signal: AbortSignal.timeout(LONGEST_MILLISECONDS), ...options });
  return parseJson(await arrival(response.text()));
}

/** Wait for a response or for its body, and return it. Throws NoAnswer if the connection breaks or times out. */
export async function arrival(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new NoAnswer();
  }
}
