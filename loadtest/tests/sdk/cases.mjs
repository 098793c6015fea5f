// The official OpenAI Node SDK in front of the gateway: what works, works unchanged; what fails, fails as its type.

import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { HELLO, hasOpenAIShape, main, raises } from "./harness.mjs";

const MIB = 1 << 20;
// Large enough that the client is still sending when the gateway has long refused it.
const LARGE = "x".repeat(8 * MIB);

/** The text of a whole chat stream, and its finish reasons. */
async function textOf(promise) {
  let text = "";
  const finished = [];
  for await (const chunk of await promise) {
    for (const choice of chunk.choices) {
      text += choice.delta.content ?? "";
      if (choice.finish_reason) finished.push(choice.finish_reason);
    }
  }
  return { text, finished };
}

const WEATHER = {
  type: "function",
  function: {
    name: "weather",
    description: "Tells the weather.",
    strict: true,
    parameters: {
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};

await main({
  // What works.

  async chat(world) {
    const answer = await world.chat("sim");
    assert.ok(answer.choices[0].message.content);
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
    assert.ok(answer._request_id, "no x-request-id");
  },

  async chat_stream(world) {
    const { text, finished } = await textOf(world.chat("sim,events=20,size=400", { stream: true }));
    assert.ok(text);
    assert.deepEqual(finished, ["stop"]);
  },

  async chat_stream_helper(world) {
    const stream = world.client.chat.completions.stream({ model: world.model("sim,events=20,size=400"), messages: HELLO });
    let text = "";
    stream.on("content", (delta) => (text += delta));
    assert.equal(await stream.finalContent(), text);
    assert.ok(text);
  },

  async chat_stream_split_at_every_byte(world) {
    const { text, finished } = await textOf(world.chat("sim,events=20,size=400,split=1", { stream: true }));
    assert.ok(text);
    assert.deepEqual(finished, ["stop"]);
  },

  async legacy_completions(world) {
    const ask = { model: world.model("sim,events=5"), prompt: "Say hello." };
    assert.ok((await world.client.completions.create(ask)).choices[0].text);
    let text = "";
    for await (const chunk of await world.client.completions.create({ ...ask, stream: true })) {
      text += chunk.choices[0]?.text ?? "";
    }
    assert.ok(text);
  },

  async tools(world) {
    const answer = await world.chat("sim,tools", { tools: [WEATHER], tool_choice: "required" });
    const [call] = answer.choices[0].message.tool_calls;
    assert.equal(answer.choices[0].finish_reason, "tool_calls");
    assert.equal(call.function.name, "weather");
    assert.equal(typeof JSON.parse(call.function.arguments), "object");
  },

  async tools_stream(world) {
    let [name, given] = ["", ""];
    for await (const chunk of await world.chat("sim,tools", { tools: [WEATHER], stream: true })) {
      for (const call of chunk.choices[0]?.delta.tool_calls ?? []) {
        name += call.function?.name ?? "";
        given += call.function?.arguments ?? "";
      }
    }
    assert.equal(name, "weather");
    assert.equal(typeof JSON.parse(given), "object");
  },

  async structured_output(world) {
    const { name, parameters: schema } = WEATHER.function;
    const answer = await world.client.chat.completions.parse({
      model: world.model("sim,json"),
      messages: HELLO,
      response_format: { type: "json_schema", json_schema: { name, schema, strict: true } },
    });
    assert.equal(typeof JSON.parse(answer.choices[0].message.content), "object");
  },

  async embeddings(world) {
    const answer = await world.client.embeddings.create({ model: world.model("sim"), input: ["one", "two"] });
    assert.equal(answer.data.length, 2);
    assert.equal(typeof answer.data[0].embedding[0], "number");
  },

  async models_list_and_retrieve(world) {
    const listed = [];
    for await (const model of world.client.models.list()) listed.push(model.id);
    const ours = listed.find((id) => id.startsWith(world.prefix));
    assert.ok(ours, `none of ours in ${listed}`);
    assert.equal((await world.client.models.retrieve(ours)).id, ours);
    hasOpenAIShape(await raises(OpenAI.NotFoundError, () => world.client.models.retrieve("sim/no-such-model-here")));
  },

  async responses(world) {
    const answer = await world.client.responses.create({ model: world.model("sim"), input: "Say hello." });
    assert.equal(answer.status, "completed");
    assert.ok(answer.output_text);
  },

  async responses_stream(world) {
    const types = [];
    const ask = { model: world.model("sim,events=5"), input: "Say hello.", stream: true };
    for await (const event of await world.client.responses.create(ask)) types.push(event.type);
    assert.equal(types[0], "response.created");
    assert.equal(types.at(-1), "response.completed");
  },

  async audio_transcription_and_translation(world) {
    const ask = async () => ({ model: world.model("sim"), file: await toFile(Buffer.alloc(100_000), "clip.wav") });
    assert.ok((await world.client.audio.transcriptions.create(await ask())).text);
    assert.ok((await world.client.audio.translations.create(await ask())).text);
  },

  async audio_speech(world) {
    const ask = { model: world.model("sim"), voice: "alloy", input: "Hello." };
    const speech = Buffer.from(await (await world.client.audio.speech.create(ask)).arrayBuffer());
    const body = JSON.stringify({ ...ask, model: "sim" });
    const direct = await world.raw("/audio/speech", { method: "POST", body, baseURL: `${world.providerURL}/v1` });
    assert.ok(speech.length && speech.equals(direct.body), "speech bytes differ from the provider's");
  },

  async images(world) {
    const model = world.model("sim");
    const image = () => toFile(Buffer.alloc(2_000), "house.png", { type: "image/png" });
    assert.ok((await world.client.images.generate({ model, prompt: "A house." })).data.length);
    assert.ok((await world.client.images.edit({ model, image: await image(), prompt: "A tree." })).data.length);
    assert.ok((await world.client.images.createVariation({ model, image: await image() })).data.length);
  },

  async moderations(world) {
    const answer = await world.client.moderations.create({ model: world.model("sim"), input: "Hello." });
    assert.equal(answer.results[0].flagged, false);
  },

  // What passes through unchanged.

  async sse_bytes_unchanged(world) {
    for (const words of ["size=400", "size=400,crlf", "size=400,comments", "size=400,utf8,split=7"]) {
      const script = `sim,${words}`;
      const body = JSON.stringify({ model: world.model(script), messages: HELLO, stream: true });
      const relayed = await world.raw("/chat/completions", { method: "POST", body });
      const direct = await world.events(script);
      assert.match(relayed.headers.get("content-type"), /^text\/event-stream/);
      assert.ok(relayed.body.equals(direct), `${script}: ${relayed.body.length} bytes, direct ${direct.length}`);
    }
  },

  async usage_only_when_asked(world) {
    const all = async (more) => Array.fromAsync(await world.chat("sim,events=5", { stream: true, ...more }));
    const asked = await all({ stream_options: { include_usage: true } });
    assert.ok(asked.at(-1).usage && asked.at(-1).choices.length === 0);
    for (const chunk of await all({})) assert.ok(!chunk.usage && chunk.choices.length > 0);
  },

  // Size.

  async body_of_8_mib(world) {
    assert.ok((await world.chat("sim", { messages: [{ role: "user", content: LARGE }] })).choices[0].message.content);
  },

  async upload_of_8_mib(world) {
    const file = await toFile(Buffer.alloc(8 * MIB), "clip.wav");
    assert.ok((await world.client.audio.transcriptions.create({ model: world.model("sim"), file })).text);
  },

  async body_of_8_mib_refused_at_the_head(world) {
    assert.ok(world.smallURL, "--small-url is missing");
    const client = world.clientFor(world.smallURL);
    const messages = [{ role: "user", content: LARGE }];
    const ask = () => client.chat.completions.create({ model: world.model("sim"), messages });
    for (let round = 0; round < 3; round += 1) hasOpenAIShape(await raises(OpenAI.APIError, ask, { status: 413 }));
  },

  async upload_of_8_mib_refused_at_the_head(world) {
    assert.ok(world.smallURL, "--small-url is missing");
    const client = world.clientFor(world.smallURL);
    const file = await toFile(Buffer.alloc(8 * MIB), "clip.wav");
    const ask = () => client.audio.transcriptions.create({ model: world.model("sim"), file });
    hasOpenAIShape(await raises(OpenAI.APIError, ask, { status: 413 }));
  },

  // Many at once, and leaving early.

  async streams_at_once(world) {
    const one = () => textOf(world.chat("sim,events=50,gap=5,size=400", { stream: true }));
    const runs = await Promise.all(Array.from({ length: world.streams }, one));
    assert.equal(new Set(runs.map((run) => run.text)).size, 1);
    assert.ok(runs[0].text);
  },

  async cancel_in_mid_stream_reaches_the_provider(world) {
    await world.expectCancelled(async (tag) => {
      let left;
      for await (const _ of await world.chat(`${tag},events=100000,gap=5`, { stream: true })) {
        left = process.hrtime.bigint();
        break; // leaving the loop aborts the request
      }
      return left;
    });
  },

  async abort_before_the_first_byte(world) {
    await world.expectCancelled(async (tag) => {
      const controller = new AbortController();
      const asked = raises(OpenAI.APIUserAbortError, () =>
        world.chat(`${tag},ttft=60000`, {}, { signal: controller.signal }),
      );
      await world.until("the provider got the request", async () => (await world.seen(tag)).length);
      const left = process.hrtime.bigint();
      controller.abort();
      await asked;
      return left;
    });
  },

  // What fails, and as what.

  async bad_requests(world) {
    const { completions } = world.client.chat;
    const empty = () => completions.create({ model: "", messages: HELLO });
    hasOpenAIShape(await raises(OpenAI.BadRequestError, empty, { status: 400 }));
    for (const field of ["api_base", "base_url", "api_key"]) {
      const call = () => world.chat("sim", { [field]: "http://x/" });
      hasOpenAIShape(await raises(OpenAI.BadRequestError, call, { status: 400 }));
    }
  },

  async unknown_provider_and_path_are_not_found(world) {
    const call = () => world.client.chat.completions.create({ model: "nobody/gpt", messages: HELLO });
    hasOpenAIShape(await raises(OpenAI.NotFoundError, call, { code: "model_not_found" }));
    hasOpenAIShape(await raises(OpenAI.NotFoundError, () => world.client.get("/no/such/path")));
    hasOpenAIShape(await raises(OpenAI.NotFoundError, () => world.client.post("/files", { body: {} })));
  },

  async wrong_method_is_a_status_error(world) {
    const error = await raises(OpenAI.APIError, () => world.client.get("/chat/completions"), { status: 405 });
    assert.match(hasOpenAIShape(error).headers.get("allow"), /POST/);
  },

  async provider_errors_keep_their_class(world) {
    const expected = {
      400: OpenAI.BadRequestError,
      404: OpenAI.NotFoundError,
      409: OpenAI.ConflictError,
      422: OpenAI.UnprocessableEntityError,
      429: OpenAI.RateLimitError,
      500: OpenAI.InternalServerError,
      502: OpenAI.InternalServerError,
      503: OpenAI.InternalServerError,
    };
    for (const [status, kind] of Object.entries(expected)) {
      for (const stream of [false, true]) {
        // A model of its own each time: one that fails again and again is left out for a while.
        const model = `${world.tag()},status=${status}`;
        const call = () => world.chat(model, { stream });
        hasOpenAIShape(await raises(kind, call, { status: Number(status) }));
      }
    }
  },

  async rate_limit_keeps_its_retry_after(world) {
    const tag = world.tag();
    const error = await raises(OpenAI.RateLimitError, () => world.chat(`${tag},429=2`), { status: 429 });
    assert.equal(error.headers.get("retry-after"), "2");
    assert.equal((await world.seen(tag)).length, 1, "a refused request was sent again");
  },

  async stream_cut_raises(world) {
    for (const how of ["cut=300", "cut=1000", "reset=600"]) {
      // A model of its own each time: one that fails again and again is left out for a while.
      const call = () => textOf(world.chat(`${world.tag()},events=100,gap=50,${how}`, { stream: true }));
      await raises(OpenAI.APIError, call, { code: "upstream_interrupted" });
    }
  },

  async answer_cut_is_an_upstream_error(world) {
    const call = () => world.chat(`${world.tag()},size=5000,cut=1000`);
    hasOpenAIShape(await raises(OpenAI.InternalServerError, call, { status: 502 }));
  },

  async stream_without_done_but_finished_is_complete(world) {
    const { finished } = await textOf(world.chat("sim,events=5,nodone", { stream: true }));
    assert.deepEqual(finished, ["stop"]);
  },

  async stream_that_neither_finished_nor_was_done_raises(world) {
    const call = () => textOf(world.chat(`${world.tag()},events=5,gap=50,nodone,nofinish`, { stream: true }));
    await raises(OpenAI.APIError, call, { code: "upstream_interrupted" });
  },

  async error_event_of_the_provider_raises(world) {
    const call = () => textOf(world.chat(`${world.tag()},events=5,errorevent`, { stream: true }));
    const error = await raises(OpenAI.APIError, call);
    assert.notEqual(error.code, "upstream_interrupted", "the provider's own error was replaced");
  },

  async provider_that_is_down_is_a_typed_error(world) {
    const call = () => world.client.chat.completions.create({ model: "down/any", messages: HELLO });
    const error = hasOpenAIShape(await raises(OpenAI.InternalServerError, call));
    assert.ok([502, 503].includes(error.status), `status ${error.status}`);
  },

  async a_callers_token_is_enough(world) {
    assert.ok((await world.guarded(world.tokens.good)).choices[0].message.content);
  },

  async a_foreign_key_beside_the_deciding_header_changes_nothing(world) {
    const defaultHeaders = { esa_aigw_auth: `Bearer ${world.tokens.good}` };
    assert.ok((await world.guarded("sk-of-somebody-else", { defaultHeaders })).choices);
  },

  async who_is_not_known_gets_an_authentication_error(world) {
    for (const token of ["sk-of-somebody-else", `${world.tokens.good}a`, "rw_"]) {
      const expected = { status: 401, code: "invalid_api_key" };
      hasOpenAIShape(await raises(OpenAI.AuthenticationError, () => world.guarded(token), expected));
    }
  },

  async what_is_not_allowed_is_a_permission_error(world) {
    for (const [name, code] of [["some", "model_not_allowed"], ["elsewhere", "ip_not_allowed"]]) {
      const call = () => world.guarded(world.tokens[name]);
      hasOpenAIShape(await raises(OpenAI.PermissionDeniedError, call, { status: 403, code }));
    }
  },

  async a_spent_budget_is_a_rate_limit_error_that_is_not_retried(world) {
    const started = performance.now();
    const call = () => world.guarded(world.tokens.spent, { maxRetries: 2 });
    const error = await raises(OpenAI.RateLimitError, call, { status: 429, code: "insufficient_quota" });
    assert.equal(error.headers.get("x-should-retry"), "false");
    assert.ok(performance.now() - started < 1_000, "it was tried again");
  },

  async a_limit_tells_when_and_the_sdk_waits_for_it(world) {
    const token = world.tokens.slow;
    assert.ok((await world.guarded(token)).choices);
    const expected = { status: 429, code: "rate_limit_exceeded" };
    const error = await raises(OpenAI.RateLimitError, () => world.guarded(token), expected);
    const wait = Number(error.headers.get("retry-after-ms"));
    assert.ok(wait > 0 && wait <= 2_000, `retry-after-ms ${wait}`);
    assert.equal(Number(error.headers.get("retry-after")), Math.ceil(wait / 1_000));
    assert.ok((await world.guarded(token, { maxRetries: 1 })).choices);
  },
});
