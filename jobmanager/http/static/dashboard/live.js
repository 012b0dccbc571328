// What happens, as it happens: server-sent events, read with fetch because EventSource cannot send a token.

import { NoAnswer, answeredAt, parseJson, request } from "./api.js";

/** The service sends something every ten seconds; a connection that is silent for longer is dead. */
const SILENCE_MILLISECONDS = 25_000;
const LONGEST_WAIT_MILLISECONDS = 8_000;
/** What ends sooner than this was cut off, and is no server that makes room for its successor. */
const SHORT_MILLISECONDS = 5_000;
/** Without a stream, how often the page asks; and after how long it tries for a stream again. */
const POLL_MILLISECONDS = 10_000;
const STREAM_AGAIN_MILLISECONDS = 30_000;
/** How often the wall clock is looked at, and by how much it jumps where the computer has slept. */
const TICK_MILLISECONDS = 1_000;
const SLEEP_MILLISECONDS = 6_000;

/**
 * Follow a stream until the returned function is called, and come back whenever it breaks off.
 *
 * `onEvent(name, data)` is called for each event, `onRefresh()` whenever what is shown may be old, and `onState(state,
 * error, heardAt)` with "connecting", "live", "lost", "polling" (other requests are answered, but no stream) or "over".
 * In a tab that nobody sees it lets go: a browser has few connections to a host, and the service few streams.
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

  /** After sleep no stream is to be trusted: the other end may have let go, and nothing would tell. */
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

/** Tell whether there is no use in asking again: what is asked for is wrong, or not there, or not to be told. */
export function isForGood({ status }) {
  return status >= 400 && status < 500 && status !== 429;
}

function open(path, lastId, signal) {
  return request(path, {
    signal,
    headers: { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) },
  });
}

/** Yield the events of an answer; throws NoAnswer where nothing comes for too long, or the connection breaks. */
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
    reader.cancel().catch(() => undefined); // a connection that broke cannot be ended once more
  }
}

function inTime(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new NoAnswer()), SILENCE_MILLISECONDS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Return name, id and data of an event (HTML Living Standard §9.2.6), as far as the service uses it. */
function parse(block) {
  // Of the characters that end a line elsewhere, data may have all but the one that ends it here.
  const fields = Object.fromEntries(block.split("\n").map((line) => line.match(/^(\w*):? ?(.*)$/s).slice(1)));
  return { name: fields.event ?? "message", id: fields.id, data: fields.data };
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
