"""The same SDK through the gateway to LiteLLM's proxy: an upstream with its own idea of heads, chunks and errors."""

import json

import openai
from harness import HELLO, World, case, main, raises

TEXT = "Hello from an OpenAI-compatible server that nobody here wrote."


@case
def litellm_chat(world: World):
    answer = world.chat("mock")
    assert answer.choices[0].message.content == TEXT, answer
    assert answer.usage.total_tokens > 0 and answer._request_id, answer


@case
def litellm_stream(world: World):
    chunks = list(world.chat("mock", stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT, chunks
    # The event with its usage has a choice too, without a finish reason.
    assert "stop" in [c.choices[0].finish_reason for c in chunks if c.choices], chunks


@case
def litellm_stream_with_usage(world: World):
    chunks = list(world.chat("mock", stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage and chunks[-1].usage.total_tokens > 0, chunks[-1]


@case
async def litellm_async_streams(world: World):
    async with world.async_client() as client:
        for _ in range(5):
            stream = await client.chat.completions.create(model=world.model("mock"), messages=HELLO, stream=True)
            text = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
            assert text == TEXT, text


@case
def litellm_stream_ends_with_done(world: World):
    ask = json.dumps({"model": world.model("mock"), "messages": HELLO, "stream": True})
    status, headers, body = world.raw("POST", "/chat/completions", ask)
    assert status == 200 and headers["content-type"].startswith("text/event-stream"), (status, headers)
    assert body.endswith(b"data: [DONE]\n\n"), body[-200:]


@case
def litellm_errors_keep_their_class(world: World):
    raises(openai.RateLimitError, lambda: world.chat("limited"), status=429)
    raises(openai.BadRequestError, lambda: world.chat("no-such-model"), status=400)


@case
def litellm_models(world: World):
    listed = [model.id for model in world.client.models.list()]
    assert world.model("mock") in listed, listed


if __name__ == "__main__":
    main()
