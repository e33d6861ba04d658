// The playground: one generation at a time, in a chat with branches or as a plain completion.

import { BASE, apiKey, bindKeyField, copyText, showModel } from "./api.js";
import { Turn, messagesBefore, path } from "./conversation.js";
import { chatRequest, completionRequest, run } from "./generate.js";
import { Output } from "./output.js";
import { ParameterForm, randomSeed } from "./parameters.js";
import { snippet } from "./snippets.js";

const $ = (id) => document.getElementById(id);
const form = new ParameterForm($("fields"));
const root = new Turn(null, "root");
let route = "chat";
let running = null;

function setStatus(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

/** A button that looks like a link. */
function link(text, label, onClick, disabled = false) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "link";
  button.textContent = text;
  if (label !== text) button.setAttribute("aria-label", label);
  button.disabled = disabled;
  button.addEventListener("click", onClick);
  return button;
}

/** The parameters of the form, with a seed that is known before the request. */
function parametersOf(name) {
  const values = form.values(name);
  const greedy = name === "chat" ? values.temperature === 0 : !values.do_sample && !values.temperature;
  return greedy ? values : { seed: randomSeed(), ...values };
}

function setRunning(controller) {
  running = controller;
  for (const button of document.querySelectorAll("button.stop")) button.hidden = !controller;
  for (const button of document.querySelectorAll("[type=submit].primary")) button.disabled = !!controller;
}

/** Run `request` into `output`; what was generated before an error or a stop stays. */
async function generate(request, output) {
  const controller = new AbortController();
  setRunning(controller);
  setStatus("Generating…");
  try {
    await run(request, output, controller.signal);
    setStatus(`Done: ${output.tokens} tokens.`);
  } catch (error) {
    const stopped = error.name === "AbortError";
    output.reason = stopped ? "stopped" : "error";
    setStatus(stopped ? "Stopped." : error.message, !stopped);
  } finally {
    output.showFacts();
    setRunning(null);
  }
}

/** Generate the assistant's turn after `turn`. */
async function answer(turn) {
  if (running) return;
  try {
    const assistant = turn.add("assistant");
    const parameters = parametersOf("chat");
    const request = chatRequest(messagesBefore(assistant, $("system").value), parameters);
    const output = (assistant.output = new Output());
    output.seed = parameters.seed ?? null;
    renderTurns();
    await generate(request, output);
    assistant.text = output.content;
    renderTurns();
  } catch (error) {
    setStatus(error.message, true);
  }
}

function branchControls(turn) {
  const count = turn.parent.children.length;
  if (count < 2) return [];
  const place = document.createElement("span");
  place.className = "branch";
  place.textContent = `${turn.index + 1}/${count}`;
  const step = (by) => () => {
    turn.move(by);
    renderTurns();
  };
  return [
    link("‹", "Previous branch", step(-1), !!running || turn.index === 0),
    place,
    link("›", "Next branch", step(1), !!running || turn.index === count - 1),
  ];
}

/** Replace the text of a user's turn by an editor; saving it starts a branch. */
function edit(turn, item) {
  const area = document.createElement("textarea");
  area.value = turn.text;
  area.rows = 3;
  area.setAttribute("aria-label", "Edited message");
  const save = () => void answer(turn.parent.add("user", area.value));
  const actions = document.createElement("div");
  actions.className = "actions";
  actions.append(link("Save as a branch", "Save as a branch", save), link("Cancel", "Cancel", renderTurns));
  item.querySelector(".text").replaceWith(area, actions);
  area.focus();
}

function turnActions(turn, item) {
  if (running) return [];
  if (turn.role === "user") return [link("Edit", "Edit this message", () => edit(turn, item))];
  return [
    link("Copy", "Copy this answer", () => void copyText(turn.text)),
    link("Again", "Generate another answer", () => void answer(turn.parent)),
  ];
}

function renderTurn(turn) {
  const item = document.createElement("li");
  item.className = `turn ${turn.role}`;
  const header = document.createElement("header");
  const role = document.createElement("strong");
  role.textContent = turn.role === "user" ? "You" : "Model";
  const body = document.createElement("div");
  body.className = "text";
  body.textContent = turn.text;
  item.append(header, turn.output?.node ?? body);
  header.append(role, ...branchControls(turn), ...turnActions(turn, item));
  return item;
}

function renderTurns() {
  const turns = path(root);
  $("turns").replaceChildren(...turns.map(renderTurn));
  $("empty").hidden = turns.length > 0;
}

function lastTurn() {
  return path(root).at(-1) ?? root;
}

function sendMessage() {
  const text = $("message").value;
  if (running || !text.trim()) return;
  $("message").value = "";
  void answer(lastTurn().add("user", text));
}

async function complete() {
  if (running) return;
  try {
    const output = new Output();
    const card = document.createElement("div");
    card.className = "turn completion";
    card.append(output.node);
    const request = completionRequest($("prompt").value, parametersOf("completion"));
    output.seed = request.body.parameters.seed ?? null;
    $("completion").replaceChildren(card);
    await generate(request, output);
  } catch (error) {
    setStatus(error.message, true);
  }
}

/** The request that the next click of the main button would send. */
function nextRequest() {
  const parameters = form.values(route);
  if (route === "completion") return completionRequest($("prompt").value, parameters);
  const draft = $("message").value || "Hello";
  const next = lastTurn().role === "user" ? lastTurn() : new Turn(lastTurn(), "user", draft);
  return chatRequest(messagesBefore(new Turn(next, "assistant"), $("system").value), parameters);
}

function showSnippet(language) {
  try {
    const { path: where, body } = nextRequest();
    $("snippet-text").textContent = snippet(language, new URL(where, BASE).href, body, !!apiKey());
    $("snippet").showModal();
  } catch (error) {
    setStatus(error.message, true);
  }
}

function selectTab(name) {
  route = name;
  for (const each of ["chat", "completion"]) {
    const selected = each === name;
    $(`tab-${each}`).setAttribute("aria-selected", String(selected));
    $(`tab-${each}`).tabIndex = selected ? 0 : -1;
    $(`panel-${each}`).hidden = !selected;
  }
  $("system-field").hidden = name !== "chat";
  form.show(name);
}

function connectTabs() {
  for (const name of ["chat", "completion"]) {
    $(`tab-${name}`).addEventListener("click", () => selectTab(name));
    $(`tab-${name}`).addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = name === "chat" ? "completion" : "chat";
      selectTab(other);
      $(`tab-${other}`).focus();
    });
  }
}

function connect() {
  connectTabs();
  $("chat-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sendMessage();
  });
  $("completion-form").addEventListener("submit", (event) => {
    event.preventDefault();
    void complete();
  });
  $("message").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    sendMessage();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") running?.abort();
  });
  for (const button of document.querySelectorAll("button.stop")) {
    button.addEventListener("click", () => running?.abort());
  }
  for (const button of document.querySelectorAll("[data-snippet]")) {
    button.addEventListener("click", () => showSnippet(button.dataset.snippet));
  }
  $("reset").addEventListener("click", () => form.reset());
  $("snippet-close").addEventListener("click", () => $("snippet").close());
  $("snippet-copy").addEventListener("click", async () => {
    await copyText($("snippet-text").textContent);
    $("snippet").close();
    setStatus("Copied.");
  });
}

async function describe() {
  try {
    await showModel($("model"));
    setStatus("");
  } catch (error) {
    setStatus(error.message, true);
  }
}

connect();
selectTab("chat");
bindKeyField($("key-form"), describe);
if (matchMedia("(max-width: 860px)").matches) $("parameters").open = false;
void describe();
