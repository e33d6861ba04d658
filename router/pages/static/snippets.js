// A request as code that can be run elsewhere: curl, Python, JavaScript. The key is never in it.

const indent = (text, spaces) => text.replaceAll("\n", `\n${" ".repeat(spaces)}`);

/** A Python literal of a JSON value. */
function python(value, depth = 0) {
  const pad = "    ".repeat(depth + 1);
  const end = "    ".repeat(depth);
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const list = Array.isArray(value);
  const items = list
    ? value.map((item) => python(item, depth + 1))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${python(item, depth + 1)}`);
  if (!items.length) return list ? "[]" : "{}";
  const [open, close] = list ? "[]" : "{}";
  return `${open}\n${items.map((item) => `${pad}${item},\n`).join("")}${end}${close}`;
}

function curl(url, body, keyed) {
  const key = keyed ? ` \\\n  -H "Authorization: Bearer $API_KEY"` : "";
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl -N ${url} \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${json}'`;
}

function pythonProgram(url, body, keyed) {
  const header = keyed ? `{"Authorization": f"Bearer {os.environ['API_KEY']}"}` : "{}";
  return `import json
${keyed ? "import os\n" : ""}import urllib.request

body = ${python(body)}
headers = {"Content-Type": "application/json", **${header}}
request = urllib.request.Request("${url}", json.dumps(body).encode(), headers)
with urllib.request.urlopen(request) as response:
    for line in response:
        print(line.decode(), end="")`;
}

function javascript(url, body, keyed) {
  const key = keyed ? ", Authorization: `Bearer ${process.env.API_KEY}`" : "";
  return `const response = await fetch("${url}", {
  method: "POST",
  headers: { "Content-Type": "application/json"${key} },
  body: JSON.stringify(${indent(JSON.stringify(body, null, 2), 2)}),
});
for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
  process.stdout.write(part);
}`;
}

const LANGUAGES = { curl, python: pythonProgram, javascript };

/** The request as code in `language`; `keyed` adds the header of a key from the environment. */
export function snippet(language, url, body, keyed) {
  return LANGUAGES[language](url, body, keyed);
}
