// A generated text: its tokens by origin, reasoning, tool calls, and the facts of the run.

function element(name, className, text = "") {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  return node;
}

const ORIGINS = {
  drafted: () => "drafted and accepted",
  corrected: (origin) => `chosen by the target model in place of ${origin.rejected} rejected drafts`,
  target: () => "chosen by the target model",
};

function originName(origin) {
  if (!origin) return "unknown";
  return origin.drafted ? "drafted" : origin.rejected ? "corrected" : "target";
}

/** One generation, which is shown in `node` while it runs. */
export class Output {
  constructor() {
    this.node = element("div", "output");
    this.reasoning = element("div", "text reasoning");
    this.reasoning.hidden = true;
    this.text = element("div", "text");
    this.tools = element("div", "tools");
    this.facts = element("dl", "facts");
    this.node.append(this.reasoning, this.text, this.tools, this.facts);
    this.calls = [];
    this.seed = null;
    this.started = performance.now();
    this.first = this.last = null;
    this.tokens = this.drafted = this.accepted = 0;
    this.reason = null;
  }

  /** The text so far, without reasoning. */
  get content() {
    return this.text.textContent;
  }

  /** Add a piece of text; `origin` has `drafted` and `rejected`, or is undefined if unknown. */
  addToken(text, origin) {
    this.markToken(origin);
    if (!text) return;
    const name = originName(origin);
    const span = element("span", `token ${name}`, text);
    if (origin) span.title = ORIGINS[name](origin);
    this.text.append(span);
  }

  /** Add a piece of reasoning. */
  addReasoning(text, origin) {
    this.markToken(origin);
    this.reasoning.hidden = false;
    this.reasoning.append(text);
  }

  /** Add a part of a tool call, as chunks have it. */
  addToolCall(part) {
    const call = (this.calls[part.index] ??= { name: "", arguments: "", node: element("div", "tool") });
    call.name += part.function.name ?? "";
    call.arguments += part.function.arguments ?? "";
    call.node.textContent = `${call.name}(${call.arguments})`;
    this.tools.append(call.node);
  }

  /** Count a token that has just arrived. */
  markToken(origin) {
    this.last = performance.now();
    this.first ??= this.last;
    this.tokens += 1;
    this.accepted += origin?.drafted ? 1 : 0;
    this.drafted += (origin?.drafted ? 1 : 0) + (origin?.rejected ?? 0);
  }

  /** Show the facts of the run so far. */
  showFacts() {
    const rows = Object.entries(this.rows()).filter(([, value]) => value !== null);
    this.facts.replaceChildren(
      ...rows.map(([name, value]) => {
        const row = document.createElement("div");
        row.append(element("dt", "", name), element("dd", "", String(value)));
        return row;
      }),
    );
  }

  rows() {
    if (this.first === null) return { seed: this.seed, finish: this.reason };
    const seconds = (this.last - this.first) / 1000;
    const rate = this.tokens > 1 && seconds > 0 ? (this.tokens - 1) / seconds : null;
    return {
      "first token": `${(this.first - this.started).toFixed(0)} ms`,
      rate: rate === null ? null : `${rate.toFixed(1)} tokens/s`,
      tokens: this.tokens,
      accepted: this.drafted ? `${this.accepted} of ${this.drafted} drafts` : null,
      rejected: this.drafted ? this.drafted - this.accepted : null,
      seed: this.seed,
      finish: this.reason,
    };
  }
}
