// A conversation as a tree: an edited turn is a sibling of the old one, which stays reachable.
// Knows neither the page nor the server.

/** A turn; `children` are the turns that follow it, of which number `selected` is shown. */
export class Turn {
  constructor(parent, role, text = "") {
    this.parent = parent;
    this.role = role;
    this.text = text;
    this.children = [];
    this.selected = 0;
    this.output = null;
  }

  /** Add a turn after this one, and select it. */
  add(role, text) {
    const turn = new Turn(this, role, text);
    this.selected = this.children.push(turn) - 1;
    return turn;
  }

  /** The number of this turn among its siblings. */
  get index() {
    return this.parent.children.indexOf(this);
  }

  /** Select the sibling `step` places further on. */
  move(step) {
    const index = this.index + step;
    if (index >= 0 && index < this.parent.children.length) this.parent.selected = index;
  }
}

/** The turns that are shown, first to last; `root` is not one of them. */
export function path(root) {
  const turns = [];
  for (let turn = root; turn.children.length; turns.push(turn)) turn = turn.children[turn.selected];
  return turns;
}

/** The messages before `turn` as the API takes them, after a system prompt if there is one. */
export function messagesBefore(turn, system) {
  const messages = [];
  for (let at = turn.parent; at.parent; at = at.parent) {
    messages.unshift({ role: at.role, content: at.text });
  }
  return system.trim() ? [{ role: "system", content: system }, ...messages] : messages;
}
