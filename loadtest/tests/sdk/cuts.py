"""The official OpenAI Python SDK, and a stream that is lost after any of its bytes: it raises, or it has the whole answer.

A stream that ends as if it were whole and is not is a silent acceptance, and there may be none.
"""

import argparse
import asyncio
import collections
import json
import socket
import sys

import openai

FAULTS = ["wirecut", "wirereset", "wirestall", "wiregarbage"]
# What is reported must not hang on how long the request is, and the words come with the request: one name for all.
MODEL = "cut,byuser,events=5,size=320,prompt=9,completion=9"
AT_ONCE = 48


def ask(model, user):
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Say hello."}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": user,
    }


def response_bytes(provider):
    """How long the provider's whole response is, head and framing and all."""
    body = json.dumps(ask(MODEL, "wirecut=9999"))
    host, port = provider.split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        length = 0
        while more := len(connection.recv(65536)):
            length += more
    return length


async def told(client, model, user):
    """The text and the reasons to stop of one stream."""
    text, finished = "", []
    async for chunk in await client.chat.completions.create(**ask(model, user)):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            if choice.finish_reason:
                finished.append(choice.finish_reason)
    return text, finished


async def cut_everywhere(args):
    client = openai.AsyncOpenAI(base_url=args.base_url, api_key="sk-caller", max_retries=0, timeout=30)
    whole = await told(client, f"sim/{MODEL}", "")
    assert whole[0] and whole[1] == ["stop"], whole
    length = response_bytes(args.provider)
    assert 2_000 <= length < 9_999, length
    # Each fault begins elsewhere, so that together they leave out less.
    todo = [(fault, at) for number, fault in enumerate(FAULTS) for at in range(number * 3 % args.stride, length + 1, args.stride)]
    asked, ends, silent = len(todo), collections.Counter(), []

    async def worker():
        while todo:
            fault, at = todo.pop()
            try:
                got = await told(client, f"sim/{MODEL}", f"{fault}={at:04}")
            except Exception as error:  # whatever it is, the caller knows that something is wrong
                ends[type(error).__name__] += 1
            else:
                if got == whole:
                    ends["complete"] += 1
                else:
                    silent.append(f"{fault}={at}: {got}")

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    await client.close()
    of_all = len(FAULTS) * (length + 1)
    print(f"{asked} cuts of {of_all} (CI every 19th byte, full every byte): {dict(ends)}, {len(silent)} silent acceptances")
    print("\n".join(silent[:20]))
    # What proves nothing has failed, too: some are whole, and nearly all are not.
    return not silent and sum(ends.values()) == asked and 0 < ends["complete"] < asked // 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", required=True, help="the gateway's /v1")
    parser.add_argument("--provider", required=True, help="the simulated provider behind it, HOST:PORT")
    parser.add_argument("--stride", type=int, required=True, help="cut at every so manyth byte")
    held = asyncio.run(cut_everywhere(parser.parse_args()))
    print("1 passed, 0 failed" if held else "0 passed, 1 failed")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
