// The parameters of a request: which there are, their form, and the body that the form describes.
// What a parameter means is in /docs. A field that is left empty is not sent.

const BOTH = ["chat", "completion"];
const CHAT = ["chat"];
const COMPLETION = ["completion"];

/** `kind` says how the text of a field becomes a value; `placeholder` is the server's default. */
export const PARAMETERS = [
  { name: "max_new_tokens", routes: COMPLETION, kind: "int", initial: "128", min: 1 },
  { name: "max_tokens", routes: CHAT, kind: "int", initial: "512", min: 1 },
  { name: "seed", routes: BOTH, kind: "int", placeholder: "random", min: 0 },
  { name: "temperature", routes: BOTH, kind: "float", placeholder: "1", min: 0 },
  { name: "top_k", routes: BOTH, kind: "int", placeholder: "all" },
  { name: "top_p", routes: BOTH, kind: "float", placeholder: "1", min: 0, max: 1 },
  { name: "typical_p", routes: COMPLETION, kind: "float", placeholder: "off", min: 0, max: 1 },
  { name: "min_p", routes: CHAT, kind: "float", placeholder: "0", min: 0, max: 1 },
  { name: "repetition_penalty", routes: BOTH, kind: "float", placeholder: "1", min: 0 },
  { name: "frequency_penalty", routes: BOTH, kind: "float", placeholder: "0", min: -2, max: 2 },
  { name: "presence_penalty", routes: CHAT, kind: "float", placeholder: "0", min: -2, max: 2 },
  { name: "speculate", routes: BOTH, kind: "int", placeholder: "server's", min: 0, max: 64 },
  { name: "min_new_tokens", routes: BOTH, kind: "int", placeholder: "0", min: 0 },
  { name: "truncate", routes: COMPLETION, kind: "int", placeholder: "off", min: 1 },
  { name: "top_n_tokens", routes: COMPLETION, kind: "int", placeholder: "0", min: 0 },
  { name: "top_logprobs", routes: CHAT, kind: "int", placeholder: "0", min: 0, max: 20 },
  { name: "expected_new_tokens", routes: BOTH, kind: "int", placeholder: "estimated", min: 1 },
  { name: "priority", routes: BOTH, kind: "int", placeholder: "0" },
  { name: "user", routes: BOTH, kind: "text" },
  { name: "cache_salt", routes: BOTH, kind: "text" },
  { name: "reasoning_effort", routes: CHAT, kind: "text" },
  { name: "tool_choice", routes: CHAT, kind: "text", placeholder: "auto" },
  { name: "tool_prompt", routes: CHAT, kind: "text" },
  { name: "do_sample", routes: COMPLETION, kind: "flag", initial: true },
  { name: "ignore_eos", routes: BOTH, kind: "flag" },
  { name: "watermark", routes: COMPLETION, kind: "flag" },
  { name: "return_full_text", routes: COMPLETION, kind: "flag" },
  { name: "continue_final_message", routes: CHAT, kind: "flag" },
  { name: "stop", routes: BOTH, kind: "lines", wide: true, placeholder: "one per line" },
  { name: "grammar", routes: COMPLETION, kind: "json", wide: true, placeholder: '{"type": "json", "value": {…}}' },
  { name: "response_format", routes: CHAT, kind: "json", wide: true, placeholder: '{"type": "json_schema", …}' },
  { name: "tools", routes: CHAT, kind: "json", wide: true, placeholder: '[{"type": "function", …}]' },
  { name: "logit_bias", routes: CHAT, kind: "json", wide: true, placeholder: '{"42": -100}' },
  { name: "chat_template_kwargs", routes: CHAT, kind: "json", wide: true, placeholder: '{"enable_thinking": false}' },
];

/** A value, or undefined for a parameter that is not sent. Throws for text that is not JSON. */
function parse(parameter, field) {
  const text = field.value.trim();
  if (parameter.kind === "flag") return field.checked || undefined;
  if (text === "") return undefined;
  if (parameter.kind === "int" || parameter.kind === "float") return Number(text);
  if (parameter.kind === "lines") return field.value.split("\n").filter((line) => line !== "");
  if (parameter.kind === "json") return JSON.parse(text);
  return text;
}

function createInput(parameter) {
  if (parameter.kind === "lines" || parameter.kind === "json") {
    const area = document.createElement("textarea");
    area.rows = 2;
    area.spellcheck = false;
    return area;
  }
  const input = document.createElement("input");
  const number = parameter.kind === "int" || parameter.kind === "float";
  input.type = parameter.kind === "flag" ? "checkbox" : number ? "number" : "text";
  if (number) {
    input.step = parameter.kind === "int" ? "1" : "any";
    if (parameter.min !== undefined) input.min = parameter.min;
    if (parameter.max !== undefined) input.max = parameter.max;
  }
  return input;
}

function createField(parameter) {
  const input = createInput(parameter);
  input.id = `parameter-${parameter.name}`;
  input.placeholder = parameter.placeholder ?? "";
  const label = document.createElement("label");
  label.htmlFor = input.id;
  label.textContent = parameter.name;
  const field = document.createElement("div");
  const flag = parameter.kind === "flag";
  field.className = `field ${flag ? "flag" : ""} ${parameter.wide ? "wide" : ""}`;
  field.append(...(flag ? [input, label] : [label, input]));
  return { parameter, field, input };
}

/** The form of all parameters inside `container`. */
export class ParameterForm {
  constructor(container) {
    this.fields = PARAMETERS.map(createField);
    container.append(...this.fields.map(({ field }) => field));
    this.reset();
  }

  /** Show the parameters of `route`, which is `chat` or `completion`. */
  show(route) {
    for (const { parameter, field } of this.fields) field.hidden = !parameter.routes.includes(route);
  }

  /** Return to the initial values. */
  reset() {
    for (const { parameter, input } of this.fields) {
      if (parameter.kind === "flag") input.checked = parameter.initial ?? false;
      else input.value = parameter.initial ?? "";
    }
  }

  /** The parameters of `route` that have a value. Throws an Error that names a broken field. */
  values(route) {
    const values = {};
    for (const { parameter, input } of this.fields) {
      if (!parameter.routes.includes(route)) continue;
      if (!input.checkValidity()) throw new Error(`${parameter.name}: ${input.validationMessage}`);
      try {
        const value = parse(parameter, input);
        if (value !== undefined) values[parameter.name] = value;
      } catch {
        throw new Error(`${parameter.name}: not JSON`);
      }
    }
    return values;
  }
}

/** A seed below 2^53, which JSON numbers represent exactly. */
export function randomSeed() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return (high & 0x1fffff) * 0x100000000 + low;
}
