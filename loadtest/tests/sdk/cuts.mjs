// The official OpenAI Node SDK, and a stream that is lost after any of its bytes; the twin of cuts.py.

import { connect } from "node:net";
import { parseArgs } from "node:util";
import OpenAI from "openai";

const FAULTS = ["wirecut", "wirereset", "wirestall", "wiregarbage"];
// What is reported must not hang on how long the request is, and the words come with the request: one name for all.
const MODEL = "cut,byuser,events=5,size=320,prompt=9,completion=9";
const AT_ONCE = 48;

const { values } = parseArgs({
  options: { "base-url": { type: "string" }, provider: { type: "string" }, stride: { type: "string" } },
});
const client = new OpenAI({ baseURL: values["base-url"], apiKey: "sk-caller", maxRetries: 0, timeout: 30_000 });
const stride = Number(values.stride);

function ask(model, user) {
  const messages = [{ role: "user", content: "Say hello." }];
  return { model, messages, stream: true, stream_options: { include_usage: true }, user };
}

/** How long the provider's whole response is, head and framing and all. */
function responseBytes() {
  const body = JSON.stringify(ask(MODEL, "wirecut=9999"));
  const [host, port] = values.provider.split(":");
  const lines = ["POST /v1/chat/completions HTTP/1.1", "host: sim", "content-type: application/json"];
  const head = [...lines, `content-length: ${body.length}`, "", ""].join("\r\n");
  return new Promise((resolve, reject) => {
    let length = 0;
    const connection = connect({ host, port: Number(port) }, () => connection.write(head + body));
    connection.on("data", (bytes) => (length += bytes.length));
    connection.on("end", () => resolve(length));
    connection.on("error", reject);
  });
}

/** The text and the reasons to stop of one stream. */
async function told(user) {
  let text = "";
  const finished = [];
  for await (const chunk of await client.chat.completions.create(ask(`sim/${MODEL}`, user))) {
    for (const choice of chunk.choices) {
      text += choice.delta.content ?? "";
      if (choice.finish_reason) finished.push(choice.finish_reason);
    }
  }
  return JSON.stringify([text, finished]);
}

const whole = await told("");
const length = await responseBytes();
if (!/^\[".+",\["stop"\]\]$/.test(whole) || length < 2_000 || length >= 9_999) throw new Error(`${length} bytes: ${whole}`);
// Each fault begins elsewhere, so that together they leave out less.
const todo = FAULTS.flatMap((fault, number) => {
  const places = [];
  for (let at = (number * 3) % stride; at <= length; at += stride) places.push([fault, at]);
  return places;
});
const asked = todo.length;
const ends = {};
const silent = [];

async function worker() {
  for (let next = todo.pop(); next; next = todo.pop()) {
    const [fault, at] = next;
    let way;
    try {
      const got = await told(`${fault}=${String(at).padStart(4, "0")}`);
      way = got === whole ? "complete" : undefined;
      if (!way) silent.push(`${fault}=${at}: ${got}`);
    } catch (error) {
      // Whatever it is, the caller knows that something is wrong.
      way = error?.constructor?.name ?? "?";
    }
    if (way) ends[way] = (ends[way] ?? 0) + 1;
  }
}

await Promise.all(Array.from({ length: AT_ONCE }, worker));
const all = FAULTS.length * (length + 1);
console.log(`${asked} cuts of ${all} (CI every 19th byte, full every byte): ${JSON.stringify(ends)}, ${silent.length} silent acceptances`);
console.log(silent.slice(0, 20).join("\n"));
const ended = Object.values(ends).reduce((sum, count) => sum + count, 0);
// What proves nothing has failed, too: some are whole, and nearly all are not.
const held = !silent.length && ended === asked && ends.complete > 0 && ends.complete < asked / 20;
console.log(held ? "1 passed, 0 failed" : "0 passed, 1 failed");
process.exit(held ? 0 : 1);
