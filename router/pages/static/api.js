// The server: addresses, the API key, errors, and streams of events. Knows no page.

/** The server's address, below which all routes lie; a proxy may add a prefix. */
export const BASE = new URL("..", import.meta.url);

const KEY = "api-key";

/** The API key, which lives as long as the tab. */
export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** Connect the field of the API key; `onChange` is called after each change. */
export function bindKeyField(form, onChange) {
  const field = form.querySelector("input");
  field.value = apiKey();
  const save = () => {
    if (field.value === apiKey()) return;
    sessionStorage.setItem(KEY, field.value);
    onChange();
  };
  field.addEventListener("change", save);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });
}

/** An error of the server, with its HTTP status. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The text of an error body, of TGI's form or OpenAI's. */
export function errorText(body) {
  return typeof body.error === "string" ? body.error : body.error?.message;
}

/** A response with a status of success; other ones throw an ApiError. */
export async function request(path, options = {}) {
  const key = apiKey();
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(new URL(path, BASE), { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const text = errorText(body) ?? response.statusText;
  throw new ApiError(response.status === 401 ? "This server needs an API key." : text, response.status);
}

/** A POST of `body` as JSON. */
export function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

/** The events of a stream, parsed; `[DONE]` ends it. An event that is an error throws. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").find((line) => line.startsWith("data: "))?.slice(6);
      if (data === "[DONE]") return;
      if (data === undefined) continue;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(errorText(event), event.error.http_status_code ?? 0);
      yield event;
    }
  }
}

/** Copy `text`, also where the page was not loaded over TLS. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Show the name of the served model in `element`; errors are thrown. */
export async function showModel(element) {
  const info = await (await request("info")).json();
  const draft = info.draft_model_id ? ` + ${info.draft_model_id}` : "";
  element.textContent = `${info.model_id}${draft} · ${info.scheduler.policy}`;
  return info;
}
