// The token. It is stored only in sessionStorage, which the browser deletes with the tab.

// The key contains the path: several services may be mounted on one host, each with its own path and tokens.
const KEY = `jobmanager-token:${location.pathname}`;
const REFUSAL = `${KEY}:refusal`;

/** Return the token, or null. */
export function token() {
  return sessionStorage.getItem(KEY);
}

/** Store a token, or remove the stored one if `secret` is empty. */
export function keepToken(secret) {
  sessionStorage.removeItem(REFUSAL);
  if (secret) sessionStorage.setItem(KEY, secret);
  else sessionStorage.removeItem(KEY);
}

/** Return the service's message that this token may not change anything; "" if no request was refused yet. */
export function refusal() {
  return sessionStorage.getItem(REFUSAL) ?? "";
}

/** Store the service's message that this token may not change anything. */
export function keepRefusal(text) {
  sessionStorage.setItem(REFUSAL, text);
}
