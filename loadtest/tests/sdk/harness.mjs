// Runs named cases one after another and says what came of each; the twin of harness.py.
//
// A case is an async function of one `World`; it passes by returning and fails by throwing. Nothing here waits by
// sleeping: what must come about is asked for again until a deadline (`World.until`).
// A CA file is given through NODE_EXTRA_CA_CERTS, which Node reads when it starts.

import { randomBytes } from "node:crypto";
import { parseArgs } from "node:util";
import OpenAI from "openai";

const CANCEL_MS_MAX = 100;
export const HELLO = [{ role: "user", content: "Say hello." }];

export class World {
  constructor(options) {
    this.baseURL = options["base-url"].replace(/\/$/, "");
    this.smallURL = options["small-url"];
    this.guardedURL = options["guarded-url"];
    this.tokens = JSON.parse(process.env.RINGWAY_TEST_TOKENS ?? "{}");
    this.providerURL = options["provider-url"].replace(/\/$/, "");
    this.prefix = options.prefix;
    this.streams = Number(options.streams);
    this.client = this.clientFor(this.baseURL);
  }

  clientFor(baseURL, more = {}) {
    return new OpenAI({ baseURL, apiKey: "sk-caller", maxRetries: 0, timeout: 30_000, ...more });
  }

  /** One chat completion at the gateway that knows its callers, as the one who holds `token`. */
  guarded(token, more = {}) {
    const client = this.clientFor(this.guardedURL, { apiKey: token, ...more });
    return client.chat.completions.create({ model: "sim/sim", messages: HELLO });
  }

  /** A model whose name is the script that the simulated provider plays. */
  model(script) {
    return this.prefix + script;
  }

  chat(script, more = {}, options = {}) {
    return this.client.chat.completions.create({ model: this.model(script), messages: HELLO, ...more }, options);
  }

  /** One exchange below the SDK: status, headers and the body's bytes, untouched. */
  async raw(path, { baseURL = this.baseURL, ...init } = {}) {
    const answer = await fetch(baseURL + path, { headers: { "content-type": "application/json" }, ...init });
    return { status: answer.status, headers: answer.headers, body: Buffer.from(await answer.arrayBuffer()) };
  }

  /**
   * The bytes of this script's events as a client that did not ask for usage should get them. The gateway does ask,
   * which changes events; what it then removes is the event that holds nothing else.
   */
  async events(words) {
    const ask = { model: words, messages: HELLO, stream: true, stream_options: { include_usage: true } };
    const baseURL = `${this.providerURL}/v1`;
    const { body } = await this.raw("/chat/completions", { method: "POST", body: JSON.stringify(ask), baseURL });
    const text = body.toString("latin1");
    const end = text.includes("\r\n\r\n") ? "\r\n\r\n" : "\n\n";
    const events = text.split(end).filter((event) => !event.includes('"choices":[]'));
    return Buffer.from(events.join(end), "latin1");
  }

  /** The provider's entries whose body names the model `tag`. */
  async seen(tag) {
    const requests = await (await fetch(`${this.providerURL}/_sim/log`)).json();
    return requests.filter((entry) => entry.body.includes(tag));
  }

  /**
   * `leave(tag)` starts a request, leaves, and returns the moment: the provider must learn of it at once. Every time it
   * must learn of it; within the bound it must in one of five tries, for the machine may be busy.
   */
  async expectCancelled(leave) {
    const late = [];
    for (let round = 0; round < 5; round += 1) {
      const tag = this.tag();
      // process.hrtime and the log read the same clock.
      const left = await leave(tag);
      const entry = await this.until("the provider saw the client leave", () => this.aborted(tag));
      late.push(entry.ended_ns / 1e6 - Number(left) / 1e6);
      if (late.at(-1) <= CANCEL_MS_MAX) return;
    }
    throw new Error(`the provider saw the client leave only ${late} ms later`);
  }

  async aborted(tag) {
    return (await this.seen(tag)).find((entry) => entry.outcome === "aborted");
  }

  /** Asks `find` again and again until it answers with something true. */
  async until(what, find, seconds = 5) {
    const deadline = performance.now() + seconds * 1000;
    for (;;) {
      const found = await find();
      if (found) return found;
      if (performance.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`);
    }
  }

  /** A model's name (its words follow at the first comma) that makes one request findable in the provider's log. */
  tag() {
    return `tag-${randomBytes(6).toString("hex")}`;
  }
}

/** The error that `call` rejects with: exactly of class `kind`, with this status and code where given. */
export async function raises(kind, call, { status, code } = {}) {
  try {
    await call();
  } catch (error) {
    if (error?.constructor !== kind) throw new Error(`expected ${kind.name}, got ${error?.constructor?.name}: ${error}`);
    if (status !== undefined && error.status !== status) throw new Error(`expected status ${status}, got ${error.status}`);
    if (code !== undefined && error.code !== code) throw new Error(`expected code ${code}, got ${error.code}: ${error}`);
    return error;
  }
  throw new Error(`expected ${kind.name}, but the call succeeded`);
}

/** A refusal's body has all four members, and the answer its id. */
export function hasOpenAIShape(error) {
  for (const member of ["message", "type", "param", "code"]) {
    if (!(member in (error.error ?? {}))) throw new Error(`no member ${member}: ${JSON.stringify(error.error)}`);
  }
  if (!error.requestID) throw new Error("no x-request-id");
  return error;
}

export async function main(cases) {
  const { values } = parseArgs({
    options: {
      "base-url": { type: "string" },
      "provider-url": { type: "string" },
      "small-url": { type: "string" },
      "guarded-url": { type: "string" },
      prefix: { type: "string", default: "sim/" },
      streams: { type: "string", default: "50" },
      filter: { type: "string", default: "" },
    },
  });
  const world = new World(values);
  let [passed, failed] = [0, 0];
  for (const [name, run] of Object.entries(cases)) {
    if (!name.includes(values.filter)) continue;
    try {
      await run(world);
      passed += 1;
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      const line = /cases\.mjs:(\d+)/.exec(error?.stack ?? "")?.[1] ?? "?";
      console.log(`FAIL ${name}: ${error?.constructor?.name} at line ${line}: ${String(error).replaceAll("\n", " ").slice(0, 400)}`);
    }
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed || !passed ? 1 : 0);
}
