// The browser test: drives the built page in Chromium against a real server or the mock.
//
//   node e2e/run.mjs [--url http://127.0.0.1:8080] [--out screenshots] [--chromium /usr/bin/chromium]
//
// Against a real server it asks for nothing but short greedy answers, and checks behaviour, never wording.

import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { start } from "../mock/server.mjs";

function option(name, otherwise) {
  const at = process.argv.indexOf(`--${name}`);
  return at > 0 ? process.argv[at + 1] : otherwise;
}

const out = option("out", "");
if (out) mkdirSync(out, { recursive: true });
const executablePath = option("chromium", ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync));
if (!executablePath) {
  console.error("no Chromium found: install one or name it with --chromium PATH");
  process.exit(2);
}
const mock = option("url") ? undefined : await start();
const url = option("url") ?? mock.url;
const FIRST_TOKEN_MS = 60_000;
const ANSWER_MS = 180_000;

const browser = await chromium.launch({
  executablePath,
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

let passed = 0;
let failed = 0;
const problems = [];

function assert(condition, message) {
  if (!condition) throw new Error(message);
}

async function step(name, action) {
  try {
    await action();
    passed += 1;
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n      ${String(error.message ?? error).split("\n").slice(0, 6).join("\n      ")}`);
  }
}

/** Opens a page of its own storage; its console errors and its requests elsewhere are collected. */
async function open({ width = 1320, height = 860, theme = "light", at = url, tolerate } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: theme, deviceScaleFactor: 1 });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  page.on("console", (message) => {
    if (message.type() === "error" && !tolerate?.test(message.text())) problems.push(message.text());
  });
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("request", (request) => {
    const { protocol, origin } = new URL(request.url());
    if (protocol.startsWith("http") && origin !== new URL(at).origin) problems.push(`request to ${request.url()}`);
  });
  await page.goto(`${at}/`);
  await page.waitForSelector("nav.sidebar", { state: "attached" });
  return page;
}

async function shot(page, name) {
  if (!out) return;
  await page.evaluate(() => document.fonts.ready);
  await page.screenshot({ path: join(out, `${name}.png`) });
}

async function say(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.getByLabel("Message", { exact: true }).press("Enter");
}

async function answered(page) {
  await page.waitForSelector(".answer[aria-busy=true]", { timeout: 5000 }).catch(() => undefined);
  await page.waitForFunction(() => !document.querySelector(".answer[aria-busy=true]"), undefined, { timeout: ANSWER_MS });
}

const lastAnswer = (page) => page.locator(".answer").last();

async function setParameter(page, label, value) {
  const field = page.getByRole("textbox", { name: label, exact: true });
  await field.fill(String(value));
  await field.press("Enter");
}

const page = await open();

await step("the page loads and names a model", async () => {
  await page.waitForSelector(".model-picker select");
  assert((await page.locator(".model-picker option").count()) >= 1, "the model picker is empty");
  await page.waitForTimeout(300);
  await shot(page, "welcome-light");
});

await step("parameters are set and shown as set", async () => {
  await page.getByRole("button", { name: /^Parameters/ }).click();
  await setParameter(page, "Temperature", 0);
  await setParameter(page, "Max tokens", mock ? 400 : 48);
  await setParameter(page, "Seed", 7);
  await page.getByLabel("System prompt").fill("Answer briefly.");
  await page.getByRole("button", { name: "Parameters, 4 changed" }).waitFor();
  await page.getByText("Token probabilities").click();
  await shot(page, "parameters-light");
  await page.getByLabel("Close parameters").click();
});

let sentBody;
page.on("request", (request) => {
  if (request.url().endsWith("/v1/chat/completions")) sentBody = request.postDataJSON();
});

await step("a message is answered as a stream", async () => {
  const lengths = new Set();
  await say(page, "Explain what a lexer does, and show one in Rust.");
  await page.waitForFunction(() => document.querySelector(".answer .prose")?.textContent?.length, undefined, { timeout: FIRST_TOKEN_MS });
  for (let i = 0; i < 200 && (await page.locator(".answer[aria-busy=true]").count()) > 0; i++) {
    lengths.add((await lastAnswer(page).textContent())?.length);
    await page.waitForTimeout(10);
  }
  await answered(page);
  assert(lengths.size >= 2, `the answer came in one piece (${lengths.size} lengths seen)`);
  assert(sentBody.stream === true && sentBody.stream_options?.include_usage === true, "the request did not ask for a stream with usage");
  assert(sentBody.temperature === 0 && sentBody.seed === 7 && sentBody.logprobs === true, "the parameters were not sent");
  assert(sentBody.top_k === undefined, "a parameter that is not set was sent");
  assert(sentBody.messages[0].role === "system", "the system prompt was not sent");
});

await step("the answer shows its speed and its tokens", async () => {
  const figures = await lastAnswer(page).locator(".figures").textContent();
  assert(/tok\/s/.test(figures) && /first token/.test(figures) && /→/.test(figures), `the figures are: ${figures}`);
});

await step("token probabilities show alternatives", async () => {
  await lastAnswer(page).getByLabel("Token probabilities").click();
  await page.locator(".token").nth(2).hover();
  await page.waitForSelector(".alternatives tr.chosen");
  assert((await page.locator(".alternatives tr").count()) >= 2, "no alternatives are shown");
  await shot(page, "tokens-light");
  await lastAnswer(page).getByLabel("Token probabilities").click();
});

if (mock) {
  await step("Markdown is drawn, and HTML in it is text", async () => {
    assert((await page.locator(".prose .code .hljs-keyword").count()) > 0, "the code is not highlighted");
    assert((await page.locator(".prose table tbody tr").count()) === 3, "the table is missing");
    assert((await page.locator(".prose img").count()) === 0, "an image element came out of the answer");
    assert(/<img src=x onerror=alert\(1\)>/.test(await lastAnswer(page).textContent()), "the HTML is not shown as text");
  });
}

await shot(page, "chat-light");
await page.emulateMedia({ colorScheme: "dark" });
await page.waitForTimeout(150);
await shot(page, "chat-dark");
await page.emulateMedia({ colorScheme: "light" });

await step("regenerate adds a version and keeps the old one", async () => {
  await lastAnswer(page).getByLabel("Regenerate").click();
  await answered(page);
  assert((await lastAnswer(page).locator(".versions").textContent()) === "2/2", "there are not two versions");
  await lastAnswer(page).getByLabel("Previous version").click();
  await page.waitForFunction(() => document.querySelector(".answer .versions .number")?.textContent === "1/2");
});

await step("editing a message forks from there", async () => {
  const question = page.locator(".question").first();
  await question.hover();
  await question.getByLabel("Edit").click();
  await page.getByLabel("Edit your message").fill("What is a parser?");
  await page.getByLabel("Edit your message").press("Enter");
  await answered(page);
  assert((await page.locator(".question .bubble").textContent()) === "What is a parser?", "the edited question is not shown");
  assert((await page.locator(".question .versions").textContent()) === "2/2", "the first question is gone");
});

await step("stop ends an answer and keeps what came", async () => {
  await page.getByRole("button", { name: /^Parameters/ }).click();
  await setParameter(page, "Max tokens", 2000);
  await page.getByLabel("Close parameters").click();
  await say(page, "Count slowly from one to one thousand in words.");
  await page.waitForFunction(() => {
    const answers = document.querySelectorAll(".answer");
    return (answers[answers.length - 1]?.querySelector(".prose")?.textContent?.length ?? 0) > 5;
  }, undefined, { timeout: FIRST_TOKEN_MS });
  const running = (await page.locator(".answer[aria-busy=true]").count()) > 0;
  assert(running, "the answer was complete before it could be stopped");
  await page.keyboard.press("Escape");
  await page.waitForFunction(() => !document.querySelector(".answer[aria-busy=true]"), undefined, { timeout: 2000 });
  assert(/stopped/.test(await lastAnswer(page).locator(".figures").textContent()), "the answer does not say that it was stopped");
});

await step("conversations last through a reload; search, rename and delete work", async () => {
  const title = "Explain what a lexer does";
  await page.reload();
  await page.locator(".entry .title", { hasText: title }).waitFor();
  assert((await page.locator(".turn").count()) === 4, "the turns are not there after a reload");
  await page.getByPlaceholder("Search").fill("nothing like this");
  await page.getByText("Nothing found").waitFor();
  await page.getByPlaceholder("Search").fill("parser");
  const entry = page.locator(".entry").first();
  await entry.hover();
  await entry.getByLabel(/^Rename/).click();
  await page.getByLabel("New title").fill("Lexers and parsers");
  await page.getByLabel("New title").press("Enter");
  await page.locator(".entry .title", { hasText: "Lexers and parsers" }).waitFor();
  await page.getByPlaceholder("Search").fill("");
  const [file] = await Promise.all([
    page.waitForEvent("download"),
    page.getByLabel("Conversation menu").click().then(() => page.getByRole("menuitem", { name: "Export Markdown" }).click()),
  ]);
  assert(file.suggestedFilename() === "Lexers-and-parsers.md", `exported as ${file.suggestedFilename()}`);
});

await step("a second conversation, deleted again", async () => {
  await page.getByLabel("New conversation").click();
  await page.getByRole("button", { name: /^Parameters/ }).click();
  await setParameter(page, "Max tokens", 3);
  await page.getByLabel("Close parameters").click();
  await say(page, "Hello");
  await answered(page);
  assert((await page.locator(".entry").count()) === 2, "there are not two conversations");
  assert(/token limit/.test(await lastAnswer(page).locator(".figures").textContent()), "the answer does not say that it was cut");
  await page.locator(".entry.open").hover();
  await page.locator(".entry.open").getByLabel(/^Delete/).click();
  await page.locator(".entry.open").getByLabel(/^Really delete/).click();
  await page.waitForFunction(() => document.querySelectorAll(".entry").length === 1);
});

await step("the models page lists what is served", async () => {
  await page.getByRole("link", { name: "Models" }).click();
  await page.waitForSelector(".model-card");
  await shot(page, "models-light");
});

await step("engine charts draw and move", async () => {
  await page.getByRole("link", { name: "Engine" }).click();
  await page.waitForSelector(".chart canvas");
  await page.waitForTimeout(3500);
  assert((await page.locator(".chart canvas").count()) === 8, "there are not eight charts");
  const ink = await page.$$eval(".chart canvas", (all) =>
    all.map((canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0)),
  );
  assert(ink.every(Boolean), "a chart is blank");
  assert(/live/.test(await page.locator(".status").textContent()), "the view is not live");
  await page.locator(".chart canvas").first().hover({ position: { x: 300, y: 60 } });
  await page.mouse.move(0, 0);
  if (mock && out) await page.waitForTimeout(40_000); // lines long enough to judge by eye
  await shot(page, "engine-light");
  await page.getByLabel("Dark theme").click();
  await page.waitForTimeout(200);
  await shot(page, "engine-dark");
  assert((await page.evaluate(() => document.documentElement.dataset.theme)) === "dark", "the theme did not change");
});

await step("requests are listed, and one is drawn with where its time went", async () => {
  await page.getByRole("link", { name: "Requests" }).click();
  await page.waitForSelector(".requests tbody tr");
  await shot(page, "requests-dark");
  await page.locator(".requests tbody tr").first().click();
  await page.waitForSelector(".timeline svg rect.piece.decode");
  assert((await page.locator(".why li").count()) > 0, "nothing is said of where the time went");
  await shot(page, "request-dark");
});

await step("traces are searched, and one leads to its timeline and back", async () => {
  await page.getByRole("link", { name: "Traces" }).click();
  await page.waitForSelector(".traces tbody tr");
  const all = await page.locator(".traces tbody tr").count();
  await shot(page, "traces-dark");
  const word = mock ? "refund" : "parser";
  await page.getByLabel("Search traces").fill(`${word} zzyzx`);
  await page.getByText("Nothing found.").waitFor();
  await page.getByLabel("Search traces").fill(mock ? word : '"is a" pars*');
  await page.waitForFunction((most) => {
    const rows = document.querySelectorAll(".traces tbody tr").length;
    return rows > 0 && rows < most;
  }, all);
  assert((await page.locator(".traces .snippet").first().textContent()).toLowerCase().includes(word), "the word is not in the snippet");
  await page.locator(".traces tbody tr").first().click();
  await page.locator(".side .said.user p", { hasText: new RegExp(word, "i") }).first().waitFor();
  assert((await page.locator(".side .said.assistant").count()) > 0, "the answer is not shown");
  await shot(page, "trace-dark");
  await page.getByRole("link", { name: "Timeline" }).click();
  await page.waitForSelector(".timeline svg");
  await page.getByRole("link", { name: "Trace", exact: true }).click();
  await page.waitForSelector(".trace .side");
});

await page.context().close();

await step("it fits a phone", async () => {
  const phone = await open({ width: 390, height: 780, theme: "dark" });
  await phone.waitForSelector(".model-picker select");
  await phone.waitForTimeout(300);
  await shot(phone, "phone-welcome-dark");
  await phone.getByRole("button", { name: /^Parameters/ }).click();
  await setParameter(phone, "Max tokens", mock ? 220 : 32);
  await phone.getByLabel("Close parameters").click();
  await say(phone, "Say something about lexers.");
  await answered(phone);
  await shot(phone, "phone-chat-dark");
  const overflow = await phone.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert(overflow <= 0, `the page is ${overflow} pixels too wide`);
  await phone.getByLabel("Menu", { exact: true }).click();
  await phone.waitForTimeout(300);
  await shot(phone, "phone-menu-dark");
  await phone.getByRole("link", { name: "Engine" }).click();
  await phone.waitForSelector(".chart canvas");
  await phone.waitForTimeout(1500);
  await shot(phone, "phone-engine-dark");
  await phone.context().close();
});

await step("who has no traces is told how to have them", async () => {
  const other = await open({ tolerate: /status of 501/ });
  const off = { error: { message: "traces: not configured on this server", type: "server_error", param: null, code: "not_configured" } };
  await other.route("**/v1/traces?*", (route) => route.fulfill({ status: 501, json: off }));
  await other.getByRole("link", { name: "Traces" }).click();
  await other.getByText("yantra serve MODEL --state-dir ./state --traces full").waitFor();
  await shot(other, "traces-off-light");
  await other.context().close();
});

if (mock) {
  await step("errors of the server are shown, and thinking is folded away", async () => {
    const other = await open({ theme: "dark", tolerate: /status of (400|429)/ });
    await other.waitForSelector(".model-picker select");
    await say(other, "Please be overloaded");
    await other.getByText("The queue is full: 64 requests are waiting. Try again in 3 s.").waitFor();
    await say(other, "now an error");
    await other.getByText("expected 0 to 2").waitFor();
    await shot(other, "errors-dark");
    await say(other, "please think");
    await answered(other);
    assert((await lastAnswer(other).locator("details.thinking:not([open])").count()) === 1, "the thinking is not folded");
    assert(!/<think>/.test(await lastAnswer(other).textContent()), "the tag is shown");
    await other.context().close();
  });

  await step("a server that wants a key gets it", async () => {
    const locked = await start({ key: "secret" });
    const other = await open({ at: locked.url, tolerate: /status of 401/ });
    await other.getByRole("dialog").waitFor();
    await shot(other, "key-light");
    await other.getByRole("dialog").getByLabel("API key").fill("secret");
    await other.getByRole("button", { name: "Save" }).click();
    await other.waitForSelector(".model-picker select");
    await other.context().close();
    locked.server.close();
    locked.server.closeAllConnections();
  });
}

await step("no errors in the browser's console, no request elsewhere", async () => {
  assert(problems.length === 0, problems.join("\n"));
});

await browser.close();
mock?.server.close();
mock?.server.closeAllConnections();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
