// Who asks: the token, kept for as long as the tab is open and nowhere else.

// Several services may be mounted on one host, each under its own path and with its own tokens.
const KEY = `jobmanager-token:${location.pathname}`;
const REFUSAL = `${KEY}:refusal`;

/** Return the token, or null. */
export function token() {
  return sessionStorage.getItem(KEY);
}

/** Keep a token, or forget the one there is. */
export function keepToken(secret) {
  sessionStorage.removeItem(REFUSAL);
  if (secret) sessionStorage.setItem(KEY, secret);
  else sessionStorage.removeItem(KEY);
}

/** Return why this token may change nothing, in the words of the service; "" as far as is known, it may. */
export function refusal() {
  return sessionStorage.getItem(REFUSAL) ?? "";
}

/** Keep why this token may change nothing. */
export function keepRefusal(text) {
  sessionStorage.setItem(REFUSAL, text);
}
