// The levels of the queue as lanes, between which the requests move.

import { duration } from "./format.js";

const MOVE_MS = 250;
const MAX_CHIPS = 64;
const PHASES = ["decode", "prefill", "swapped", "preempted", "queued"];

function element(name, className, ...children) {
  const node = document.createElement(name);
  node.className = className;
  node.append(...children);
  return node;
}

/** The lanes inside `container`. */
export class Lanes {
  constructor(container) {
    this.container = container;
    this.lists = [];
    this.chips = new Map();
  }

  /** Show the requests of `state`. */
  update(state) {
    this.setCount(state.queue_depth.length);
    const requests = [...state.requests]
      .sort((a, b) => PHASES.indexOf(a.phase) - PHASES.indexOf(b.phase) || a.number - b.number)
      .slice(0, MAX_CHIPS);
    const before = this.places();
    this.removeExcept(new Set(requests.map((each) => each.number)));
    for (const [level, list] of this.lists.entries()) {
      const members = requests.filter((each) => Math.min(each.level, this.lists.length - 1) === level);
      list.replaceChildren(...members.map((each) => this.chip(each)));
    }
    this.animate(before);
  }

  setCount(count) {
    if (this.lists.length === count) return;
    this.lists = Array.from({ length: count }, () => document.createElement("ul"));
    this.container.replaceChildren(
      ...this.lists.map((list, level) => {
        const name = element("span", "", level === 0 ? "0 · first" : String(level));
        list.setAttribute("aria-label", `Level ${level}`);
        return element("div", "lane", name, list);
      }),
    );
  }

  places() {
    const places = new Map();
    for (const [number, chip] of this.chips) places.set(number, chip.getBoundingClientRect());
    return places;
  }

  removeExcept(numbers) {
    for (const number of this.chips.keys()) if (!numbers.has(number)) this.chips.delete(number);
  }

  chip(request) {
    let chip = this.chips.get(request.number);
    if (!chip) {
      chip = element("li", "chip", element("span", ""), element("small", ""), element("i", ""));
      this.chips.set(request.number, chip);
    }
    const [name, facts, bar] = chip.children;
    const mark = request.aged ? " ▲" : request.perceptible ? " ●" : "";
    name.textContent = request.request_id + mark;
    facts.textContent = `${duration(request.remaining_seconds)} left`;
    bar.style.width = `${(100 * request.emitted_tokens) / request.max_new_tokens}%`;
    chip.className = `chip ${request.phase}`;
    chip.title = `${request.phase}, ${request.emitted_tokens} of ${request.max_new_tokens} tokens, ${request.pages} pages`;
    return chip;
  }

  /** Let the chips that have moved glide from where they were. */
  animate(before) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    for (const [number, chip] of this.chips) {
      const old = before.get(number);
      if (!old) continue;
      const place = chip.getBoundingClientRect();
      const [x, y] = [old.left - place.left, old.top - place.top];
      if (!x && !y) continue;
      chip.animate([{ transform: `translate(${x}px, ${y}px)` }, {}], { duration: MOVE_MS, easing: "ease-out" });
    }
  }
}
