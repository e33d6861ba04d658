// The playground and the dashboard in a real browser, against a running server.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";

const { URL: BASE, KEY, BROWSER, MODULES, SCREENSHOTS, SECONDS = "10" } = process.env;
const require = createRequire(`${MODULES}/`);
const { chromium } = require("playwright-core");
const AXE = require.resolve("axe-core/axe.min.js");
const QUIET = ["background-networking", "component-update", "sync"].map((name) => `--disable-${name}`);
const DESKTOP = { width: 1240, height: 900 };
const PHONE = { width: 390, height: 844 };
let browser;

before(async () => {
  const args = ["--no-sandbox", "--disable-gpu", "--no-first-run", ...QUIET];
  browser = await chromium.launch({ executablePath: BROWSER, args });
});
after(() => browser.close());

/** Open `path` with the key, and run `act`; nothing may be logged, thrown, or asked of others. */
async function visit(path, options, act) {
  const context = await browser.newContext({ viewport: DESKTOP, bypassCSP: options.axe ?? false, ...options });
  await context.addInitScript((key) => sessionStorage.setItem("api-key", key), options.key ?? KEY);
  const page = await context.newPage();
  const faults = [];
  page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("request", (request) => {
    if (!request.url().startsWith(`${BASE}/`) && !request.url().startsWith("data:")) faults.push(request.url());
  });
  await page.goto(`${BASE}/${path}`);
  await act(page);
  await context.close();
  return faults;
}

const status = (page, text) =>
  page.waitForFunction((start) => document.querySelector("#status").textContent.startsWith(start), text);

async function send(page, text) {
  await page.fill("#message", text);
  await page.keyboard.press("Enter");
}

async function screenshot(page, name) {
  if (SCREENSHOTS) await page.screenshot({ path: `${SCREENSHOTS}/${name}.png` });
}

/** What `page` looks like in both color schemes after it has run for a while. */
async function picture(page, name, milliseconds) {
  if (!SCREENSHOTS) return;
  await page.waitForTimeout(milliseconds);
  for (const colorScheme of ["dark", "light"]) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    await page.waitForTimeout(1000);
    await screenshot(page, `${name}-${colorScheme}-busy`);
  }
}

test("a chat streams tokens by origin, with its timing and its seed", async () => {
  const faults = await visit("ui", {}, async (page) => {
    await page.fill("#parameter-max_tokens", "60");
    await page.check("#parameter-ignore_eos");
    await send(page, "Tell me about copying files");
    await status(page, "Done: 60 tokens");
    assert.ok(await page.locator(".turn.assistant .token.drafted").count());
    assert.ok(await page.locator(".turn.assistant .token.corrected").count());
    const facts = await page.locator(".turn.assistant .facts").innerText();
    for (const name of ["first token", "rate", "accepted", "rejected", "seed", "finish"]) assert.match(facts, new RegExp(name));
    await screenshot(page, "chat");
  });
  assert.deepEqual(faults, []);
});

test("a stopped generation keeps its text, and another can follow", async () => {
  const faults = await visit("ui", {}, async (page) => {
    await page.check("#parameter-ignore_eos");
    await send(page, "Count");
    await page.waitForSelector(".turn.assistant .token");
    await page.keyboard.press("Escape");
    await status(page, "Stopped");
    assert.notEqual(await page.locator(".turn.assistant .text").last().innerText(), "");
    await page.fill("#parameter-max_tokens", "5");
    await send(page, "Again");
    await status(page, "Done: 5 tokens");
    assert.equal(await page.locator(".turn").count(), 4);
  });
  assert.deepEqual(faults, []);
});

test("an edited turn starts a branch, and the old one stays reachable", async () => {
  const faults = await visit("ui", {}, async (page) => {
    await page.fill("#parameter-max_tokens", "8");
    await page.check("#parameter-ignore_eos");
    await send(page, "first question");
    await status(page, "Done");
    const old = await page.locator(".turn.assistant .text").last().innerText();
    await page.click("text=Edit");
    await page.fill(".turn.user textarea", "second question");
    await page.click("text=Save as a branch");
    await page.waitForFunction(() => {
      const [question, facts] = [".turn.user", ".turn.assistant .facts"].map((at) => document.querySelector(at)?.textContent);
      return question?.includes("second question") && facts?.includes("finish");
    });
    await page.click("[aria-label='Previous branch']");
    assert.match(await page.locator(".turn.user").innerText(), /first question/);
    assert.equal(await page.locator(".turn.assistant .text").last().innerText(), old);
  });
  assert.deepEqual(faults, []);
});

test("a completion with the reported seed has the same text", async () => {
  const faults = await visit("ui", {}, async (page) => {
    await page.click("#tab-completion");
    await page.click("#completion-form .primary");
    await status(page, "Done");
    const text = await page.locator("#completion .text").last().innerText();
    const facts = await page.locator("#completion .facts").innerText();
    await page.fill("#parameter-seed", facts.match(/seed\s+(\d+)/)[1]);
    await page.fill("#parameter-speculate", "0");
    await page.click("#completion-form .primary");
    await page.waitForFunction(() => !document.querySelector("#completion .token.drafted"));
    await status(page, "Done");
    assert.equal(await page.locator("#completion .text").last().innerText(), text);
  });
  assert.deepEqual(faults, []);
});

test("the request can be copied as code, without the key", async () => {
  const faults = await visit("ui", {}, async (page) => {
    await page.fill("#message", "it's a \"question\"");
    for (const [language, part] of [["curl", "curl -N"], ["python", "urllib.request"], ["javascript", "await fetch"]]) {
      await page.click(`[data-snippet=${language}]`);
      const code = await page.locator("#snippet-text").innerText();
      assert.ok(code.includes(part) && code.includes(`${BASE}/v1/chat/completions`));
      assert.ok(!code.includes(KEY) && code.includes("API_KEY"));
      await page.click("#snippet-close");
    }
  });
  assert.deepEqual(faults, []);
});

test("without the key the page says so, and with the key it works", async () => {
  await visit("ui", { key: "wrong" }, async (page) => {
    await status(page, "This server needs an API key");
    await page.fill("#key", KEY);
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelector("#model").textContent !== "");
  });
});

/** Requests that come and go for `seconds`. */
async function load(seconds) {
  const end = Date.now() + 1000 * seconds;
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${KEY}` };
  const client = async (number) => {
    while (Date.now() < end) {
      const parameters = { max_new_tokens: 20 + ((number * 67) % 300), ignore_eos: true };
      const body = JSON.stringify({ inputs: "word ".repeat(1 + ((number * 31) % 150)), parameters });
      await (await fetch(`${BASE}/generate`, { method: "POST", headers, body })).text();
    }
  };
  await Promise.all(Array.from({ length: 24 }, (_, number) => client(number)));
}

test("the dashboard shows a busy server for a while without a fault", async () => {
  const loaded = load(Number(SECONDS));
  const faults = await visit("dashboard", {}, async (page) => {
    await page.waitForSelector(".health.ready");
    await page.waitForSelector(".lane .chip.decode");
    await page.waitForSelector(".lane .chip.queued");
    await page.waitForSelector("#events li");
    await picture(page, "dashboard", 500 * Number(SECONDS));
    await loaded;
    await page.waitForFunction(() => document.querySelectorAll(".lane .chip").length === 0);
    const bars = await page.locator(".bars div").count();
    assert.equal(bars, 5);
  });
  assert.deepEqual(faults, []);
});

const LOOKS = [
  { colorScheme: "light" },
  { colorScheme: "dark" },
  { colorScheme: "dark", viewport: PHONE, isMobile: true },
];
for (const path of ["ui", "dashboard"]) {
  for (const look of LOOKS) {
    const name = `${path} ${look.colorScheme}${look.isMobile ? " phone" : ""}`;
    test(`axe has no serious finding: ${name}`, async () => {
      const faults = await visit(path, { ...look, axe: true }, async (page) => {
        await page.waitForFunction((id) => document.querySelector(id).textContent !== "", path === "ui" ? "#model" : "#tiles");
        if (path === "ui") {
          await page.fill("#parameter-max_tokens", "30").catch(() => page.click("#parameters summary"));
          await page.fill("#parameter-max_tokens", "30");
          await send(page, "Hello");
          await status(page, "Done");
        }
        await page.addScriptTag({ path: AXE });
        const { violations } = await page.evaluate(() => window.axe.run());
        const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
        assert.deepEqual(serious.map(({ id, nodes }) => [id, nodes[0].html]), []);
        const width = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(width <= 0, `the page is ${width} pixels too wide`);
        await screenshot(page, name.replaceAll(" ", "-"));
      });
      assert.deepEqual(faults, []);
    });
  }
}
