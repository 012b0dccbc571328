// The form that submits a job.

import { NoAnswer, ask } from "./api.js";
import { showConnection } from "./connection.js";
import { heedRefusal } from "./control.js";
import { h, setText } from "./dom.js";
import { fieldsOf } from "./form.js";
import { nameOf } from "./format.js";
import { say } from "./notices.js";
import { viewLink } from "./parts.js";
import { refusal } from "./token.js";

/** The schema of the options that all job types have. */
const OPTIONS = {
  properties: {
    labels: {
      type: "object",
      description: "Your own names and values, to find the job by.",
      examples: [{ team: "growth" }],
    },
    priority: { type: "integer", description: "Higher values run first. The default is 0." },
    run_at: {
      type: "string",
      description: "Earliest time to start, with its time zone.",
      examples: ["2030-01-31T06:00:00Z"],
    },
    max_attempts: { type: "integer", description: "Number of attempts before a failure is final." },
    timeout_seconds: { type: "number", description: "Longest time that one attempt may run, in seconds." },
  },
};

/** The page with the form. `go(query, replace)` navigates to another view. */
export class SubmitPage {
  #go;
  #types = null;
  #shown = null;
  #choice = h("select", {
    id: "job-type",
    onchange: () => this.#go(new URLSearchParams({ submit: this.#choice.value }), true),
  });
  #description = h("p", { class: "hint" });
  #args = [];
  #argsBox = h("fieldset", {}, h("legend", {}, "Arguments"));
  #options = fieldsOf(OPTIONS, "#");
  #error = h("p", { class: "error", role: "alert" });
  #button = h("button", { class: "primary" }, "Submit");
  #sent = { text: "", key: "" };
  #isSending = false;

  constructor(go) {
    this.#go = go;
    this.title = "New job";
    const options = this.#options.map(({ element }) => element);
    const form = h(
      "form",
      { class: "card submit", novalidate: true, onsubmit: (event) => this.#submit(event) },
      h("div", { class: "field" }, h("label", { for: "job-type" }, "Type"), this.#choice, this.#description),
      this.#argsBox,
      h("details", {}, h("summary", {}, "More options"), options),
      this.#error,
      h("div", { class: "choices" }, this.#button),
    );
    this.element = h("article", {}, viewLink("", { class: "back" }, "← All jobs"), h("h1", {}, "New job"), form);
    showConnection("over");
  }

  /** Show the form of a type, or of the first type if `name` is not one. Keeps the input if the type stays the same. */
  async show(name) {
    try {
      this.#types ??= (await ask("job-types")).job_types;
    } catch (error) {
      return setText(this.#error, error.message);
    }
    this.#choice.replaceChildren(...this.#types.map(({ type }) => h("option", { value: type }, type)));
    const chosen = this.#types.find(({ type }) => type === name) ?? this.#types[0];
    if (!chosen) return setText(this.#error, "There are no job types that you may submit.");
    this.#choice.value = chosen.type;
    if (chosen.type !== this.#shown) this.#draw(chosen);
    this.#button.setAttribute("aria-disabled", Boolean(refusal()));
    return setText(this.#error, refusal());
  }

  #draw({ type, description, args_schema: schema }) {
    this.#shown = type;
    setText(this.#description, description);
    this.#args = fieldsOf(schema, "#/args");
    const fields = this.#args.length ? this.#args.map(({ element }) => element) : [h("p", {}, "No arguments.")];
    this.#argsBox.replaceChildren(this.#argsBox.firstElementChild, ...fields);
  }

  leave() {
    showConnection("connecting");
  }

  async #submit(event) {
    event.preventDefault();
    if (this.#isSending || refusal()) return;
    const fields = [...this.#args, ...this.#options];
    const args = read(this.#args);
    const options = read(this.#options);
    if (!args || !options) return focusFirstFault(fields);
    this.#isSending = true;
    try {
      const job = await this.#send({ type: this.#choice.value, args, ...options });
      say(`${nameOf(job)} is ${job.status}.`);
      this.#go(new URLSearchParams({ job: job.id }));
    } catch (error) {
      this.#complain(error, fields);
    } finally {
      this.#isSending = false;
    }
  }

  /** Submit a body. The same body keeps its idempotency key: a retry after a lost answer creates no second job. */
  #send(body) {
    const text = JSON.stringify(body);
    if (text !== this.#sent.text) this.#sent = { text, key: randomKey() };
    return ask("jobs", { body, headers: { "Idempotency-Key": this.#sent.key } });
  }

  #complain(error, fields) {
    heedRefusal(error);
    const places = new Map((error.errors ?? []).map(({ pointer, detail }) => [pointer, detail]));
    for (const field of fields) {
      // An error inside a JSON value is shown at the field that holds the value.
      const wrong = [...places.keys()].filter(
        (pointer) => pointer === field.pointer || pointer?.startsWith(`${field.pointer}/`),
      );
      field.complain(wrong.map((pointer) => places.get(pointer)).join(" "));
      for (const pointer of wrong) places.delete(pointer);
    }
    const isTold = error.errors?.length && !places.size;
    const again = error instanceof NoAnswer ? " Submit again: this cannot create a second job." : "";
    setText(this.#error, isTold ? "" : `${error.message}${again}`);
    focusFirstFault(fields);
  }
}

/** Return the values of the fields by name. Returns null if one is not valid JSON; that field then shows the error. */
function read(fields) {
  const values = {};
  let isGood = true;
  for (const field of fields) {
    field.complain("");
    try {
      const value = field.value();
      if (value !== undefined) values[field.name] = value;
    } catch (error) {
      field.complain(`Invalid JSON: ${error.message}`);
      isGood = false;
    }
  }
  return isGood ? values : null;
}

function focusFirstFault(fields) {
  fields.find(({ element }) => element.querySelector(".error").textContent)?.focus();
}

/** Return a random key. Does not use crypto.randomUUID, which exists on secure pages only. */
function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
