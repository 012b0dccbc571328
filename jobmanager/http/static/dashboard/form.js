// Form fields generated from a JSON Schema. Only the service validates values; its errors name the fields.

import { parseJson } from "./api.js";
import { h, setText } from "./dom.js";

/** A number in JSON (RFC 8259). */
const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?$/i;

let made = 0;

/** Return a field for each property of a schema, in its order. */
export function fieldsOf(schema, pointer) {
  return Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const isRequired = schema.required?.includes(name);
    return new Field(name, resolve(property, schema), { pointer: `${pointer}/${escape(name)}`, isRequired });
  });
}

/** A labelled control for one value. */
class Field {
  #control;
  #kind;
  #error;

  /** `pointer` is the JSON pointer to the value in the request body, by which errors name the field. */
  constructor(name, schema, { pointer, isRequired = false }) {
    this.name = name;
    this.pointer = pointer;
    this.#kind = kindOf(schema);
    const id = `field-${++made}`;
    this.#control = CONTROLS[this.#kind](schema, isRequired);
    this.#error = h("p", { class: "error", id: `${id}-error` });
    this.#control.id = id;
    this.#control.setAttribute("aria-describedby", `${id}-hint ${id}-error`);
    if (isRequired) this.#control.setAttribute("aria-required", "true");
    const sign = isRequired ? h("span", { class: "hint" }, " required") : null;
    this.element = h(
      "div",
      { class: `field ${this.#kind}` },
      h("label", { for: id }, name, sign),
      this.#control,
      h("p", { class: "hint", id: `${id}-hint` }, schema.description ?? ""),
      this.#error,
    );
  }

  /** Return the value, or undefined if it is left out. Throws SyntaxError if it should be JSON and is not. */
  value() {
    return READERS[this.#kind](this.#control);
  }

  /** Show an error at the field; "" removes it. */
  complain(text) {
    setText(this.#error, text);
    this.#control.setAttribute("aria-invalid", Boolean(text));
  }

  focus() {
    this.#control.focus();
  }
}

/** Return the schema of a property with resolved references, and without the type null of an optional property. */
function resolve(property, root) {
  if (property.$ref) {
    const { $ref, ...own } = property;
    const [, ...parts] = $ref.split("/");
    return resolve({ ...parts.reduce((node, part) => node?.[part], root), ...own }, root);
  }
  const kinds = property.anyOf?.filter(({ type }) => type !== "null");
  if (kinds?.length !== 1) return property;
  const { anyOf, ...own } = property;
  const kind = resolve({ ...kinds[0], ...own }, root);
  // A checkbox has two states; an optional boolean has three.
  return kind.type === "boolean" && anyOf.length > 1 ? { ...kind, enum: [true, false] } : kind;
}

function kindOf({ type, format, enum: choices }) {
  if (choices) return "choice";
  if (type === "string") return format === "date" ? "date" : "string";
  return ["integer", "number", "boolean"].includes(type) ? type : "json";
}

/** The functions that build the control for a schema, by kind. */
const CONTROLS = {
  string: (schema) => line(schema),
  date: (schema) => line(schema, { type: "date" }),
  integer: (schema) => line(schema, { inputmode: "numeric" }),
  number: (schema) => line(schema, { inputmode: "decimal" }),
  boolean: ({ default: isSet }) => h("input", { type: "checkbox", checked: isSet === true }),
  choice,
  json: area,
};

function line({ default: value, examples }, more = {}) {
  const placeholder = examples && `for example ${examples[0]}`;
  return h("input", { value, placeholder, autocomplete: "off", spellcheck: "false", ...more });
}

function area({ default: value, examples, type = "any" }) {
  const placeholder = examples ? `for example ${JSON.stringify(examples[0])}` : `JSON: ${type}`;
  return h(
    "textarea",
    { rows: 3, spellcheck: "false", placeholder },
    value == null ? "" : JSON.stringify(value, null, 2),
  );
}

function choice({ enum: choices, default: chosen }, isRequired) {
  const options = choices.map((each) =>
    h("option", { value: JSON.stringify(each), selected: each === chosen }, `${each}`),
  );
  return h("select", {}, !isRequired && chosen == null && h("option", { value: "" }, "—"), options);
}

const json = ({ value }) => (value.trim() ? parseJson(value) : undefined);

/** Read a text. If a default was removed, returns "": the service would fill in the default for a missing value. */
const text = ({ value, defaultValue }) => value || (defaultValue ? "" : undefined);

/** Read a number. Returns anything else as text, so that the service reports the error. */
function numeric(control) {
  return NUMBER.test(control.value.trim()) ? parseJson(control.value) : text(control);
}

/** The functions that read the value of a control, by kind. */
const READERS = {
  string: text,
  date: text,
  integer: numeric,
  number: numeric,
  boolean: ({ checked }) => checked,
  choice: json,
  json,
};

/** Escape a name for a JSON pointer in a URI fragment (RFC 6901), the form in which errors name fields. */
function escape(name) {
  return encodeURIComponent(name.replaceAll("~", "~0").replaceAll("/", "~1"));
}
