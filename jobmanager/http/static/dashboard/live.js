// Live updates: server-sent events, read with fetch because EventSource cannot send a token.

import { NoAnswer, answeredAt, parseJson, request } from "./api.js";

/** Timeout of a stream. The service sends a line at least every ten seconds. */
const SILENCE_MILLISECONDS = 25_000;
const LONGEST_WAIT_MILLISECONDS = 8_000;
/** If a stream ends sooner than this, retries slow down. A later end is normal, as at a restart of the server. */
const SHORT_MILLISECONDS = 5_000;
/** Time between two polls, also while a stream is open; and time until the next try after "too many streams". */
const POLL_MILLISECONDS = 10_000;
const STREAM_AGAIN_MILLISECONDS = 30_000;
/** Time between two readings of the wall clock; and gap between two readings that shows that the computer slept. */
const TICK_MILLISECONDS = 1_000;
const SLEEP_MILLISECONDS = 6_000;

/**
 * Follow a stream until the returned function is called. Reconnects whenever the stream breaks.
 *
 * Calls `onEvent(name, data)` for each event, `onRefresh()` whenever the page may be out of date, and `onState(state,
 * error, heardAt)` with "connecting", "live", "lost", "polling" (requests succeed, but not the stream) or "over".
 * Disconnects while the tab is hidden: a browser has few connections to a host, and the service few streams.
 */
export function follow(path, { onEvent, onRefresh, onState }) {
  let controller = null;
  let lastId = "";
  let heardAt = new Date();
  let tickedAt = Date.now();
  const poll = setInterval(() => document.hidden || onRefresh(), POLL_MILLISECONDS);
  const clock = setInterval(heedSleep, TICK_MILLISECONDS);

  async function run(signal) {
    let brokeAt = null;
    for (let failures = 0; !signal.aborted;) {
      const began = performance.now();
      let isRefused = false;
      try {
        const response = await open(path, lastId, signal);
        if (response.status === 204) {
          clearInterval(poll);
          return onState("over");
        }
        brokeAt = null;
        onState("live");
        onRefresh();
        for await (const event of events(response, signal)) {
          heardAt = new Date();
          lastId = event.id ?? lastId;
          if (event.data) onEvent(event.name, parseJson(event.data));
        }
      } catch (error) {
        if (signal.aborted) return;
        if (isForGood(error)) {
          clearInterval(poll);
          return onState("over");
        }
        isRefused = error.kind === "too-many-streams";
        brokeAt ??= performance.now();
        onState(isRefused || answeredAt > brokeAt ? "polling" : "lost", error, heardAt);
      }
      failures = performance.now() - began < SHORT_MILLISECONDS ? failures + 1 : 0;
      const wait = Math.min(LONGEST_WAIT_MILLISECONDS, 250 * 2 ** failures);
      await pause(isRefused ? STREAM_AGAIN_MILLISECONDS : wait, signal);
    }
  }

  function heedVisibility() {
    controller?.abort();
    controller = null;
    if (document.hidden) return;
    controller = new AbortController();
    onState("connecting");
    run(controller.signal);
  }

  /** Reconnect after sleep: the server may have closed the stream without the browser noticing. */
  function heedSleep() {
    const hasSlept = Date.now() - tickedAt > SLEEP_MILLISECONDS;
    tickedAt = Date.now();
    if (hasSlept && controller) heedVisibility();
  }

  document.addEventListener("visibilitychange", heedVisibility);
  heedVisibility();
  return () => {
    clearInterval(clock);
    document.removeEventListener("visibilitychange", heedVisibility);
    clearInterval(poll);
    controller?.abort();
  };
}

/** Return true if the error is permanent, so that a retry cannot help: a 4xx other than 429. */
export function isForGood({ status }) {
  return status >= 400 && status < 500 && status !== 429;
}

function open(path, lastId, signal) {
  return request(path, {
    signal,
    headers: { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) },
  });
}

/** Yield the events of a response. Throws NoAnswer if nothing arrives for too long, or if the connection breaks. */
async function* events(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    while (true) {
      const { value, done } = await inTime(reader.read());
      if (done) return;
      const blocks = (text + value).split("\n\n");
      text = blocks.pop();
      yield* blocks.map(parse);
    }
  } catch (error) {
    throw signal.aborted ? error : new NoAnswer();
  } finally {
    reader.cancel().catch(() => undefined); // fails if the connection is broken
  }
}

function inTime(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new NoAnswer()), SILENCE_MILLISECONDS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Return name, id and data of an event. Parses the part of HTML Living Standard §9.2.6 that the service uses. */
function parse(block) {
  // Flag s: data may contain line separators other than \n, such as U+2028.
  const fields = Object.fromEntries(block.split("\n").map((line) => line.match(/^(\w*):? ?(.*)$/s).slice(1)));
  return { name: fields.event ?? "message", id: fields.id, data: fields.data };
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
