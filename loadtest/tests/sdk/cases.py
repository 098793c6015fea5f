"""The official OpenAI Python SDK in front of the gateway: what works, works unchanged; what fails, fails as its type."""

import asyncio
import concurrent.futures
import io
import json
import time

import openai
import pydantic
from harness import HELLO, World, case, has_openai_shape, main, raises

MIB = 1 << 20
# Large enough that the client is still sending when the gateway has long refused it.
LARGE = "x" * (8 * MIB)


def text_of(stream):
    """The text of a whole chat stream, and its finish reasons."""
    text, finished = [], []
    for chunk in stream:
        for choice in chunk.choices:
            text.append(choice.delta.content or "")
            if choice.finish_reason:
                finished.append(choice.finish_reason)
    return "".join(text), finished


# What works.


@case
def chat(world: World):
    answer = world.chat("sim")
    assert answer.choices[0].message.content, answer
    assert answer.choices[0].finish_reason == "stop", answer
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage
    assert answer._request_id, "no x-request-id"


@case
def chat_stream(world: World):
    text, finished = text_of(world.chat("sim,events=20,size=400", stream=True))
    assert text and finished == ["stop"], (text, finished)


@case
def chat_stream_helper(world: World):
    with world.client.chat.completions.stream(model=world.model("sim,events=20,size=400"), messages=HELLO) as stream:
        deltas = [event for event in stream if event.type == "content.delta"]
        whole = stream.get_final_completion().choices[0].message.content
    assert deltas and whole == "".join(event.delta for event in deltas), whole


@case
async def async_chat_and_stream(world: World):
    async with world.async_client() as client:
        answer = await client.chat.completions.create(model=world.model("sim"), messages=HELLO)
        assert answer.choices[0].message.content, answer
        stream = await client.chat.completions.create(model=world.model("sim,events=20,size=400"), messages=HELLO, stream=True)
        finished = [c.choices[0].finish_reason async for c in stream if c.choices]
        assert len(finished) >= 20 and finished[-1] == "stop", finished


@case
def chat_stream_split_at_every_byte(world: World):
    text, finished = text_of(world.chat("sim,events=20,size=400,split=1", stream=True))
    assert text and finished == ["stop"], (text, finished)


@case
def legacy_completions(world: World):
    answer = world.client.completions.create(model=world.model("sim"), prompt="Say hello.")
    assert answer.choices[0].text, answer
    chunks = list(world.client.completions.create(model=world.model("sim,events=5"), prompt="Say hello.", stream=True))
    assert "".join(c.choices[0].text for c in chunks if c.choices), chunks


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@case
def tools(world: World):
    answer = world.chat("sim,tools", tools=[WEATHER], tool_choice="required")
    call = answer.choices[0].message.tool_calls[0]
    assert answer.choices[0].finish_reason == "tool_calls", answer
    assert call.function.name == "weather" and isinstance(json.loads(call.function.arguments), dict), call


@case
def tools_stream(world: World):
    name, arguments = "", ""
    for chunk in world.chat("sim,tools", tools=[WEATHER], stream=True):
        for call in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert name == "weather" and isinstance(json.loads(arguments), dict), (name, arguments)


class City(pydantic.BaseModel):
    city: str


@case
def structured_output(world: World):
    answer = world.client.chat.completions.parse(model=world.model("sim"), messages=HELLO, response_format=City)
    assert isinstance(answer.choices[0].message.parsed, City), answer


@case
def embeddings(world: World):
    answer = world.client.embeddings.create(model=world.model("sim"), input=["one", "two"])
    assert len(answer.data) == 2 and all(isinstance(x, float) for x in answer.data[0].embedding), answer


@case
def models_list(world: World):
    listed = [model.id for model in world.client.models.list()]
    assert any(model.startswith(world.prefix) for model in listed), listed


@case
def models_retrieve_an_encoded_slash(world: World):
    model = next(model.id for model in world.client.models.list() if model.id.startswith(world.prefix))
    assert world.client.models.retrieve(model).id == model
    status, _, body = world.raw("GET", "/models/" + model.replace("/", "%2F"))
    assert (status, json.loads(body)["id"]) == (200, model), (status, body)


@case
def models_retrieve_unknown(world: World):
    has_openai_shape(raises(openai.NotFoundError, lambda: world.client.models.retrieve("sim/no-such-model-here")))


@case
def responses(world: World):
    answer = world.client.responses.create(model=world.model("sim"), input="Say hello.")
    assert answer.status == "completed" and answer.output_text, answer


@case
def responses_stream(world: World):
    types = [e.type for e in world.client.responses.create(model=world.model("sim,events=5"), input="Hi.", stream=True)]
    assert types[0] == "response.created" and types[-1] == "response.completed", types


@case
def audio_transcription(world: World):
    clip = ("clip.wav", io.BytesIO(b"RIFF" + bytes(100_000)), "audio/wav")
    assert world.client.audio.transcriptions.create(model=world.model("sim"), file=clip).text


@case
def audio_translation(world: World):
    clip = ("clip.wav", io.BytesIO(b"RIFF" + bytes(1_000)), "audio/wav")
    assert world.client.audio.translations.create(model=world.model("sim"), file=clip).text


@case
def audio_speech(world: World):
    speech = world.client.audio.speech.create(model=world.model("sim"), voice="alloy", input="Hello.")
    direct = world.raw(
        "POST", "/audio/speech", json.dumps({"model": "sim", "voice": "alloy", "input": "Hello."}), base_url=world.provider_url + "/v1"
    )
    assert speech.content and speech.content == direct[2], "speech bytes differ from the provider's"


@case
def images(world: World):
    assert world.client.images.generate(model=world.model("sim"), prompt="A house.").data
    picture = ("house.png", io.BytesIO(b"\x89PNG\r\n\x1a\n" + bytes(2_000)), "image/png")
    assert world.client.images.edit(model=world.model("sim"), image=picture, prompt="A tree.").data
    picture[1].seek(0)
    assert world.client.images.create_variation(model=world.model("sim"), image=picture).data


@case
def moderations(world: World):
    answer = world.client.moderations.create(model=world.model("sim"), input="Hello.")
    assert answer.results[0].flagged is False, answer


@case
def raw_response_headers(world: World):
    raw = world.client.chat.completions.with_raw_response.create(model=world.model("sim"), messages=HELLO)
    assert raw.headers["x-request-id"] and raw.headers["content-type"].startswith("application/json"), raw.headers
    assert raw.parse().choices[0].message.content


# What passes through unchanged.


@case
def sse_bytes_unchanged(world: World):
    """Seen below the SDK: the bytes are the provider's, apart from the usage-only event that was not asked for."""
    for words in ["size=400", "size=400,crlf", "size=400,comments", "size=400,utf8,split=7", "size=70000"]:
        script = f"sim,{words}"
        ask = {"model": world.model(script), "messages": HELLO, "stream": True}
        status, headers, relayed = world.raw("POST", "/chat/completions", json.dumps(ask))
        assert status == 200 and headers["content-type"].startswith("text/event-stream"), (words, status, headers)
        direct = world.events(script)
        assert relayed == direct, f"{script}: {len(relayed)} bytes relayed, {len(direct)} direct"


@case
def sse_bytes_unchanged_with_usage_asked(world: World):
    ask = {"model": "", "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    _, _, relayed = world.raw("POST", "/chat/completions", json.dumps({**ask, "model": world.model("sim,events=20,size=400")}))
    _, _, direct = world.raw(
        "POST", "/chat/completions", json.dumps({**ask, "model": "sim,events=20,size=400"}), base_url=world.provider_url + "/v1"
    )
    assert relayed == direct and b'"usage":{' in relayed.replace(b" ", b""), "usage-only event lost or changed"


@case
def usage_only_when_asked(world: World):
    asked = list(world.chat("sim,events=5", stream=True, stream_options={"include_usage": True}))
    assert asked[-1].usage and not asked[-1].choices, asked[-1]
    unasked = list(world.chat("sim,events=5", stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in unasked), unasked
    declined = list(world.chat("sim,events=5", stream=True, stream_options={"include_usage": False}))
    assert all(chunk.usage is None for chunk in declined), declined


@case
def json_bytes_unchanged(world: World):
    ask = {"model": world.model("sim,size=5000"), "messages": HELLO}
    _, _, relayed = world.raw("POST", "/chat/completions", json.dumps(ask))
    ask["model"] = "sim,size=5000"
    _, _, direct = world.raw("POST", "/chat/completions", json.dumps(ask), base_url=world.provider_url + "/v1")
    assert relayed == direct, (relayed[:200], direct[:200])


# Size.


@case
def body_of_8_mib(world: World):
    answer = world.chat("sim", messages=[{"role": "user", "content": LARGE}])
    assert answer.choices[0].message.content, answer


@case
def upload_of_8_mib(world: World):
    clip = ("clip.wav", io.BytesIO(bytes(8 * MIB)), "audio/wav")
    assert world.client.audio.transcriptions.create(model=world.model("sim"), file=clip).text


@case
def body_of_8_mib_refused_at_the_head(world: World):
    assert world.small_url, "--small-url is missing"
    client = world.sync_client(world.small_url)
    ask = [{"role": "user", "content": LARGE}]
    for _ in range(3):
        error = raises(
            openai.APIStatusError, lambda: client.chat.completions.create(model=world.model("sim"), messages=ask), status=413
        )
        has_openai_shape(error)


@case
def upload_of_8_mib_refused_at_the_head(world: World):
    assert world.small_url, "--small-url is missing"
    client = world.sync_client(world.small_url)
    clip = ("clip.wav", io.BytesIO(bytes(8 * MIB)), "audio/wav")
    error = raises(
        openai.APIStatusError, lambda: client.audio.transcriptions.create(model=world.model("sim"), file=clip), status=413
    )
    has_openai_shape(error)


# Many at once, and leaving early.


@case
def streams_at_once(world: World):
    with concurrent.futures.ThreadPoolExecutor(world.streams) as pool:
        runs = [pool.submit(lambda: text_of(world.chat("sim,events=50,gap=5,size=400", stream=True))) for _ in range(world.streams)]
        texts = {run.result(timeout=60)[0] for run in runs}
    assert len(texts) == 1 and texts != {""}, f"{len(texts)} different texts"


@case
async def async_streams_at_once(world: World):
    async with world.async_client() as client:

        async def one():
            stream = await client.chat.completions.create(
                model=world.model("sim,events=50,gap=5,size=400"), messages=HELLO, stream=True
            )
            return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

        texts = set(await asyncio.gather(*[one() for _ in range(world.streams)]))
    assert len(texts) == 1 and texts != {""}, f"{len(texts)} different texts"


@case
def cancel_in_mid_stream_reaches_the_provider(world: World):
    def leave(tag):
        stream = world.chat(f"{tag},events=100000,gap=5", stream=True)
        next(iter(stream))
        stream.close()
        return time.monotonic_ns()

    world.expect_cancelled(leave)


@case
def async_cancel_before_the_first_byte(world: World):
    async def ask_and_cancel(tag):
        async with world.async_client() as client:
            ask = client.chat.completions.create(model=world.model(f"{tag},ttft=60000"), messages=HELLO)
            task = asyncio.ensure_future(ask)
            await asyncio.to_thread(world.until, "the provider got the request", lambda: world.seen(tag))
            task.cancel()
            left_ns = time.monotonic_ns()
            await asyncio.gather(task, return_exceptions=True)
            return left_ns

    world.expect_cancelled(lambda tag: asyncio.run(ask_and_cancel(tag)))


@case
def timeout_of_the_client_cancels_upstream(world: World):
    tag = World.tag()
    client = world.client.with_options(timeout=0.2)
    raises(
        openai.APITimeoutError,
        lambda: client.chat.completions.create(model=world.model(f"{tag},ttft=60000"), messages=HELLO),
    )
    world.until("the provider saw the client leave", lambda: world.aborted(tag))


# What fails, and as what.


@case
def empty_model_is_a_bad_request(world: World):
    call = lambda: world.client.chat.completions.create(model="", messages=HELLO)
    has_openai_shape(raises(openai.BadRequestError, call, status=400))


@case
def redirecting_field_is_a_bad_request(world: World):
    for field in ["api_base", "base_url", "api_key"]:
        has_openai_shape(raises(openai.BadRequestError, lambda: world.chat("sim", extra_body={field: "http://x/"})))


@case
def duplicate_key_is_a_bad_request(world: World):
    model = world.model("sim")
    body = '{"model":"%s","messages":[],"mod\\u0065l":"%s"}' % (model, model)
    status, headers, answer = world.raw("POST", "/chat/completions", body)
    assert status == 400 and headers["x-request-id"], (status, headers)
    assert {"message", "type", "param", "code"} <= set(json.loads(answer)["error"]), answer


@case
def unknown_provider_is_not_found(world: World):
    call = lambda: world.client.chat.completions.create(model="nobody/gpt", messages=HELLO)
    has_openai_shape(raises(openai.NotFoundError, call, code="model_not_found"))


@case
def unknown_path_is_not_found(world: World):
    has_openai_shape(raises(openai.NotFoundError, lambda: world.client.get("/no/such/path", cast_to=object)))
    has_openai_shape(raises(openai.NotFoundError, lambda: world.client.post("/files", body={}, cast_to=object)))


@case
def wrong_method_is_a_status_error(world: World):
    error = raises(openai.APIStatusError, lambda: world.client.get("/chat/completions", cast_to=object), status=405)
    assert "POST" in has_openai_shape(error).response.headers["allow"]


@case
def provider_errors_keep_their_class(world: World):
    expected = {
        400: openai.BadRequestError,
        404: openai.NotFoundError,
        409: openai.ConflictError,
        422: openai.UnprocessableEntityError,
        429: openai.RateLimitError,
        500: openai.InternalServerError,
        502: openai.InternalServerError,
        503: openai.InternalServerError,
    }
    for status, kind in expected.items():
        for stream in [False, True]:
            # A model of its own each time: one that fails again and again is left out for a while.
            model = f"{World.tag()},status={status}"
            has_openai_shape(raises(kind, lambda: world.chat(model, stream=stream), status=status))


@case
def rate_limit_keeps_its_retry_after(world: World):
    tag = World.tag()
    error = raises(openai.RateLimitError, lambda: world.chat(f"{tag},429=2"), status=429)
    assert error.response.headers["retry-after"] == "2", error.response.headers
    assert len(world.seen(tag)) == 1, "a refused request was sent again"


@case
def provider_credential_refused_is_not_the_callers_fault(world: World):
    """Our key was refused, not the caller's: an AuthenticationError would send the caller after the wrong key."""
    raises(openai.InternalServerError, lambda: world.chat(f"{World.tag()},status=401"), status=502)


@case
def stream_cut_raises(world: World):
    # The gap lets the first events be passed on: what is lost before is an answer of its own.
    for how in ["cut=300", "cut=1000", "reset=600"]:
        error = raises(openai.APIError, lambda: text_of(world.chat(f"{World.tag()},events=100,gap=50,{how}", stream=True)))
        assert error.code == "upstream_interrupted", f"{how}: {error.code}: {error}"


@case
async def async_stream_cut_raises(world: World):
    async with world.async_client() as client:
        stream = await client.chat.completions.create(
            model=world.model(f"{World.tag()},events=100,gap=50,cut=1000"), messages=HELLO, stream=True
        )
        try:
            async for _ in stream:
                pass
        except openai.APIError as error:
            assert error.code == "upstream_interrupted", error
        else:
            raise AssertionError("a cut stream was taken as complete")


@case
def answer_cut_is_an_upstream_error(world: World):
    error = raises(openai.InternalServerError, lambda: world.chat(f"{World.tag()},size=5000,cut=1000"), status=502)
    has_openai_shape(error)


@case
def stream_without_done_but_finished_is_complete(world: World):
    assert text_of(world.chat("sim,events=5,nodone", stream=True))[1] == ["stop"]


@case
def stream_that_neither_finished_nor_was_done_raises(world: World):
    error = raises(openai.APIError, lambda: text_of(world.chat(f"{World.tag()},events=5,gap=50,nodone,nofinish", stream=True)))
    assert error.code == "upstream_interrupted", error


@case
def error_event_of_the_provider_raises(world: World):
    error = raises(openai.APIError, lambda: text_of(world.chat(f"{World.tag()},events=5,errorevent", stream=True)))
    assert error.code != "upstream_interrupted", "the provider's own error was replaced"


@case
def provider_that_is_down_is_a_typed_error(world: World):
    call = lambda: world.client.chat.completions.create(model="down/any", messages=HELLO)
    error = has_openai_shape(raises(openai.InternalServerError, call))
    assert error.status_code in (502, 503), error


@case
def a_callers_token_is_enough(world: World):
    assert world.guarded(world.tokens["good"]).choices[0].message.content


@case
def a_foreign_key_beside_the_deciding_header_changes_nothing(world: World):
    mine = {"esa_aigw_auth": f"Bearer {world.tokens['good']}"}
    assert world.guarded("sk-of-somebody-else", default_headers=mine).choices


@case
def who_is_not_known_gets_an_authentication_error(world: World):
    good = world.tokens["good"]
    for token in ["sk-of-somebody-else", good[:-1] + ("a" if good[-1] != "a" else "b"), "rw_"]:
        error = raises(openai.AuthenticationError, lambda: world.guarded(token), status=401, code="invalid_api_key")
        assert has_openai_shape(error).response.headers["www-authenticate"] == "Bearer"


@case
def what_is_not_allowed_is_a_permission_error(world: World):
    call = lambda: world.guarded(world.tokens["some"])
    has_openai_shape(raises(openai.PermissionDeniedError, call, status=403, code="model_not_allowed"))
    call = lambda: world.guarded(world.tokens["elsewhere"])
    has_openai_shape(raises(openai.PermissionDeniedError, call, status=403, code="ip_not_allowed"))


@case
def a_spent_budget_is_a_rate_limit_error_that_is_not_retried(world: World):
    started = time.monotonic()
    call = lambda: world.guarded(world.tokens["spent"], max_retries=2)
    error = raises(openai.RateLimitError, call, status=429, code="insufficient_quota")
    assert error.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in error.response.headers
    assert time.monotonic() - started < 1, "it was tried again"


@case
def a_limit_tells_when_and_the_sdk_waits_for_it(world: World):
    token = world.tokens["slow"]
    first = world.sync_client(world.guarded_url, api_key=token).chat.completions.with_raw_response
    answer = first.create(model="sim/sim", messages=HELLO)
    assert answer.headers["x-ratelimit-limit-requests"] == "30", answer.headers
    error = raises(openai.RateLimitError, lambda: world.guarded(token), status=429, code="rate_limit_exceeded")
    headers = has_openai_shape(error).response.headers
    wait_ms = int(headers["retry-after-ms"])
    assert 0 < wait_ms <= 2000 and int(headers["retry-after"]) == -(-wait_ms // 1000), headers
    # The SDK's own second try comes when it may, and not before: a third would have met a refusal again.
    assert world.guarded(token, max_retries=1).choices


if __name__ == "__main__":
    main()
