// The dashboard: shows each state of the stream `/debug/state`, and nothing else.

import { bindKeyField, events, request } from "./api.js";
import { changes } from "./changes.js";
import { KvMap, LineChart, drawBars } from "./charts.js";
import { duration, percent, total } from "./format.js";
import { Lanes } from "./lanes.js";

const RETRY_MS = 2000;
const MAX_EVENTS = 60;
const $ = (id) => document.getElementById(id);

const lanes = new Lanes($("lanes"));
const kvMap = new KvMap($("kv"));
const throughput = new LineChart($("throughput"), ["tokens/s"], (value) => (value ?? 0).toFixed(0));
const ttft = new LineChart($("ttft"), ["p50", "p99"], duration);
const inter = new LineChart($("inter"), ["p50", "p99"], duration);
let last = null;
let connection = null;

function setHealth(text, className) {
  if ($("health").textContent === text) return;
  $("health").textContent = text;
  $("health").className = `health ${className}`;
}

function tiles(state) {
  const { drafting, counts, kv_cache: kv } = state;
  return {
    running: state.running,
    waiting: state.queue_depth.reduce((sum, count) => sum + count, 0),
    "tokens/s": state.tokens_per_second.toFixed(0),
    ttft: duration(state.time_to_first_token.p50),
    "inter-token": duration(state.inter_token.p50),
    "KV used": percent(kv.used / kv.total),
    accepted: drafting.drafter ? percent(drafting.acceptance_rate) : "–",
    "draft length": drafting.drafter ? drafting.draft_length.toFixed(1) : "–",
    preemptions: total(counts.preemptions),
    restarts: counts.restarts,
    failures: total(counts.failures),
  };
}

function showTiles(state) {
  const rows = Object.entries(tiles(state)).map(([name, value]) => {
    const tile = document.createElement("div");
    const term = document.createElement("dt");
    const number = document.createElement("dd");
    term.textContent = name;
    number.textContent = value;
    tile.append(term, number);
    return tile;
  });
  $("tiles").replaceChildren(...rows);
}

function showTable(state) {
  if (!document.querySelector("details").open) return;
  const rows = state.requests.map((each) => {
    const row = document.createElement("tr");
    for (const value of [
      each.request_id,
      each.level,
      each.phase,
      duration(each.remaining_seconds),
      duration(each.attained_seconds),
      `${each.emitted_tokens} of ${each.max_new_tokens}`,
      each.drafted ? percent(each.accepted / each.drafted) : "–",
      each.draft_length,
      each.pages,
      total(each.preemptions),
    ]) {
      row.insertCell().textContent = value;
    }
    return row;
  });
  $("rows").replaceChildren(...rows);
}

function addEvents(lines) {
  for (const line of lines) {
    const item = document.createElement("li");
    const time = document.createElement("time");
    time.textContent = new Date().toLocaleTimeString();
    item.append(time, line);
    $("events").prepend(item);
  }
  while ($("events").children.length > MAX_EVENTS) $("events").lastChild.remove();
}

function show(state) {
  const ready = state.shards.health === "ready";
  setHealth(state.shards.health, ready ? "ready" : "bad");
  showTiles(state);
  lanes.update(state);
  kvMap.update(state);
  throughput.add([state.tokens_per_second]);
  ttft.add([state.time_to_first_token.p50, state.time_to_first_token.p99]);
  inter.add([state.inter_token.p50, state.inter_token.p99]);
  drawBars($("acceptance"), state.drafting.survival, percent);
  showTable(state);
  if (last) addEvents(changes(last, state));
  last = state;
}

/** Show the stream until it ends; throws if it cannot be opened. */
async function follow(signal) {
  const response = await request("debug/state", { signal });
  for await (const state of events(response)) show(state);
}

/** Follow the stream, again and again, until another connection replaces this one. */
async function connect() {
  connection?.abort();
  const own = (connection = new AbortController());
  while (connection === own && !own.signal.aborted) {
    try {
      await follow(own.signal);
    } catch (error) {
      if (!own.signal.aborted) setHealth(error.message, "bad");
    }
    if (!own.signal.aborted) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) connection?.abort();
  else void connect();
});
bindKeyField($("key-form"), () => void connect());
void connect();
