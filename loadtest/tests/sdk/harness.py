"""Runs named cases one after another and says what came of each.

A case is a plain or async function of one `World`; it passes by returning and fails by raising. Nothing here waits
by sleeping: what must come about is asked for again until a deadline (`World.until`).
"""

import argparse
import asyncio
import http.client
import inspect
import json
import os
import ssl
import sys
import time
import traceback
import uuid
import warnings
from urllib.parse import urlsplit

import openai

CASES = []
CANCEL_MS_MAX = 100
HELLO = [{"role": "user", "content": "Say hello."}]


def case(function):
    """Registers a case under its own name, in the order of the file."""
    CASES.append(function)
    return function


class World:
    """Where the gateway and the simulated provider are, and clients for them."""

    def __init__(self, args):
        self.base_url = args.base_url.rstrip("/")
        self.small_url = args.small_url
        self.guarded_url = args.guarded_url
        self.tokens = json.loads(os.environ.get("RINGWAY_TEST_TOKENS", "{}"))
        self.provider_url = args.provider_url.rstrip("/")
        self.prefix = args.prefix
        self.key = args.key
        self.streams = args.streams
        self.tls = ssl.create_default_context(cafile=args.ca) if args.ca else None
        self.client = self.sync_client(self.base_url)

    def sync_client(self, base_url, **options):
        http_client = openai.DefaultHttpxClient(verify=self.tls) if self.tls else None
        options = {"api_key": self.key, "max_retries": 0, **options}
        return openai.OpenAI(base_url=base_url, timeout=30, http_client=http_client, **options)

    def guarded(self, token, **options):
        """One chat completion at the gateway that knows its callers, as the one who holds `token`."""
        model = options.pop("model", "sim/sim")
        client = self.sync_client(self.guarded_url, api_key=token, **options)
        return client.chat.completions.create(model=model, messages=HELLO)

    def async_client(self, **options):
        http_client = openai.DefaultAsyncHttpxClient(verify=self.tls) if self.tls else None
        return openai.AsyncOpenAI(
            base_url=self.base_url, api_key=self.key, max_retries=0, timeout=30, http_client=http_client, **options
        )

    def model(self, script):
        """A model whose name is the script that the simulated provider plays."""
        return self.prefix + script

    def chat(self, script, **options):
        """One chat completion (or stream) in one line, as most cases need it."""
        options.setdefault("messages", [{"role": "user", "content": "Say hello."}])
        return self.client.chat.completions.create(model=self.model(script), **options)

    def raw(self, method, path, body=None, base_url=None):
        """One exchange below the SDK: (status, headers, body) with no byte touched. Headers are lower-cased."""
        url = urlsplit(base_url or self.base_url)
        if url.scheme == "https":
            connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=30, context=self.tls)
        else:
            connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
        try:
            connection.request(method, url.path + path, body, {"content-type": "application/json", "authorization": f"Bearer {self.key}"})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def events(self, words):
        """The bytes of this script's events as a client that did not ask for usage should get them.

        The gateway does ask, which changes events; what it then removes is the event that holds nothing else.
        """
        ask = {"model": words, "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
        body = self.raw("POST", "/chat/completions", json.dumps(ask), base_url=self.provider_url + "/v1")[2]
        end = next(end for end in [b"\r\n\r\n", b"\n\n"] if end in body)
        return end.join(event for event in body.split(end) if b'"choices":[]' not in event)

    def log(self):
        """What the provider received, oldest first; its moments are CLOCK_MONOTONIC in nanoseconds."""
        url = urlsplit(self.provider_url)
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
        try:
            connection.request("GET", "/_sim/log")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def seen(self, tag):
        """The provider's entries whose body names the model `tag`."""
        return [entry for entry in self.log() if tag in entry["body"]]

    def aborted(self, tag):
        """The entry of `tag` once its client has left, else None."""
        return next((entry for entry in self.seen(tag) if entry["outcome"] == "aborted"), None)

    def expect_cancelled(self, leave):
        """`leave(tag)` starts a request, leaves, and returns the moment: the provider must learn of it at once.

        Every time it must learn of it; within the bound it must in one of five tries, for the machine may be busy.
        """
        late_ms = []
        for _ in range(5):
            tag = self.tag()
            left_ns = leave(tag)
            entry = self.until("the provider saw the client leave", lambda: self.aborted(tag))
            late_ms.append((entry["ended_ns"] - left_ns) / 1e6)
            if late_ms[-1] <= CANCEL_MS_MAX:
                return
        raise AssertionError(f"the provider saw the client leave only {late_ms} ms later")

    def until(self, what, find, seconds=5.0):
        """Asks `find` again and again until it answers with something true; fails with `what` after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            if found := find():
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what}")

    @staticmethod
    def tag():
        """A model's name (its words follow at the first comma) that makes one request findable in the provider's log."""
        return f"tag-{uuid.uuid4().hex[:12]}"


def raises(kind, call, status=None, code=None):
    """The error that `call` raises: exactly of class `kind`, with this status and code where given."""
    try:
        call()
    except openai.OpenAIError as error:
        assert type(error) is kind, f"expected {kind.__name__}, got {type(error).__name__}: {error}"
        if status is not None:
            assert error.status_code == status, f"expected status {status}, got {error.status_code}: {error}"
        if code is not None:
            assert error.code == code, f"expected code {code}, got {error.code}: {error}"
        return error
    raise AssertionError(f"expected {kind.__name__}, but the call succeeded")


def has_openai_shape(error):
    """A refusal's body has all four members, and the answer its id."""
    assert isinstance(error.body, dict), f"no error object: {error.body!r}"
    assert {"message", "type", "param", "code"} <= set(error.body), f"members missing: {error.body!r}"
    assert error.request_id, "no x-request-id"
    return error


def main():
    parser = argparse.ArgumentParser(description="OpenAI Python SDK cases against a running gateway")
    parser.add_argument("--base-url", required=True, help="the gateway's /v1")
    parser.add_argument("--provider-url", required=True, help="the simulated provider behind it, without /v1")
    parser.add_argument("--small-url", help="/v1 of a gateway with a body limit of 1 MiB; without it those cases fail")
    parser.add_argument("--guarded-url", help="/v1 of a gateway that demands a caller's token; without it those cases fail")
    parser.add_argument("--ca", help="PEM file to verify the gateway's certificate with")
    parser.add_argument("--prefix", default="sim/", help="put before every model name")
    parser.add_argument("--key", default="sk-caller", help="what the client sends as its own key")
    parser.add_argument("--streams", type=int, default=50, help="streams at once")
    parser.add_argument("--filter", default="", help="run only the cases whose name holds this")
    args = parser.parse_args()
    # Endpoints that OpenAI calls deprecated are still part of what is dropped in for.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    world = World(args)

    passed = failed = 0
    for function in CASES:
        name = function.__name__
        if args.filter not in name:
            continue
        try:
            outcome = function(world)
            if inspect.iscoroutine(outcome):
                asyncio.run(outcome)
        except Exception as error:  # whatever it is, it is this case's failure, and the next case runs
            failed += 1
            where = traceback.extract_tb(error.__traceback__)
            line = next((f.lineno for f in reversed(where) if "cases" in f.filename), "?")
            text = str(error).replace("\n", " ")[:400]
            print(f"FAIL {name}: {type(error).__name__} at line {line}: {text}", flush=True)
        else:
            passed += 1
            print(f"ok {name}", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)
