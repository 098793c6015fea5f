"""`usage.estimate = "bpe"` against OpenAI's own `tiktoken`: chats of many kinds go through the gateway to an upstream that
reports no usage, and what the access log says of each must be what tiktoken counts by the formula of OpenAI's cookbook.

Needs `tiktoken` and its vocabularies on disk (`TIKTOKEN_CACHE_DIR`; LiteLLM's package has them, tiktoken checks their hashes).
The texts are drawn from a seed: `--seed`.
"""

import argparse
import http.client
import http.server
import inspect
import json
import pathlib
import random
import sys
import threading
import time
import traceback
from urllib.parse import urlsplit

import tiktoken
import tiktoken.model

PATIENCE_SECONDS = 60
DEVIATION_MAX = 0.02
# Where the prompt is short, a whole token is more than that: none may be missing there.
UPSTREAM = "up"

# Article 1 of the Universal Declaration of Human Rights, or a part of it.
LANGUAGES = {
    "english": "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood. It's what we've agreed on; isn't it?",
    "german": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
    "french": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
    "polish": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "turkish": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler.",
    "vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "russian": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью.",
    "greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "hebrew": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "arabic": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميرًا وعليهم أن يعامل بعضهم بعضًا بروح الإخاء.",
    "hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "chinese": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
}
EMOJI = ["🎉", "👍🏽", "👨‍👩‍👧‍👦", "🇺🇳", "❤️", "😀", "🏴‍☠️", "✨", "🤷🏻‍♀️"]


def prose(language):
    def text(chance, size):
        """Its sentences in pieces of any length, so that no two texts are alike."""
        source, out = LANGUAGES[language], ""
        while len(out) < size:
            begin = chance.randrange(len(source))
            out += source[begin : begin + chance.randrange(3, 60)] + chance.choice(["", " ", ". ", "\n", "\n\n", ", "])
        return out[:size]

    return text


def python_code(chance, size):
    source = inspect.getsource(chance.choice([json.decoder, http.client, argparse, inspect, random, threading]))
    begin = chance.randrange(max(1, len(source) - size))
    return source[begin : begin + size]


def rust_code(chance, size):
    files = sorted((pathlib.Path(__file__).resolve().parents[3] / "src").rglob("*.rs"))
    source = chance.choice(files).read_text()
    begin = chance.randrange(max(1, len(source) - size))
    return source[begin : begin + size]


def json_text(chance, size):
    rows = []
    while len(text := json.dumps(rows, indent=chance.choice([None, 2]), ensure_ascii=False)) < size:
        rows += [{"id": chance.randrange(10**9), "name": chance.choice(list(LANGUAGES)), "ok": chance.random() < 0.5, "x": [chance.random(), None]} for _ in range(1 + size // 100)]
    return text[:size]


def numbers(chance, size):
    out = ""
    while len(out) < size:
        out += str(chance.randrange(10 ** chance.randrange(1, 40))) + chance.choice(["", " ", ",", ".", "\n", "-", "e+"])
    return out[:size]


def emoji(chance, size):
    return "".join(chance.choice(EMOJI + [" ", "ok ", "!"]) for _ in range(1 + size // 4))


def identifiers(chance, size):
    """What is in no dictionary: hashes, base64, paths, camel case."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/_-."
    out = ""
    while len(out) < size:
        out += "".join(chance.choice(letters) for _ in range(chance.randrange(4, 50))) + chance.choice([" ", "/", "=", "\n", "::", "()"])
    return out[:size]


def spaces(chance, size):
    out = ""
    while len(out) < size:
        out += chance.choice([" ", "\n", "\t", "\r\n", "\u00a0", "\u3000"]) * chance.randrange(1, 12) + chance.choice(["", "x", "don't", "I'LL", "7", "—", "…"])
    return out[:size]


def any_characters(chance, size):
    """Of all planes, but for halves of pairs, which are no characters."""
    out = []
    while len(out) < size:
        point = chance.choice([chance.randrange(0x20, 0x250), chance.randrange(0x250, 0xD800), chance.randrange(0xE000, 0x30000)])
        out.append(chr(point))
    return "".join(out)


def special(chance, size):
    """What would be a token of its own if it were not a text."""
    words = ["<|endoftext|>", "<|im_start|>", "<|endofprompt|>", " and ", "\n", "<|start|>user"]
    return "".join(chance.choice(words) for _ in range(1 + size // 10))


KINDS = {
    **{language: prose(language) for language in LANGUAGES},
    "python": python_code,
    "rust": rust_code,
    "json": json_text,
    "numbers": numbers,
    "emoji": emoji,
    "identifiers": identifiers,
    "spaces": spaces,
    "any characters": any_characters,
    "special": special,
}


def mixed(chance, size):
    pieces = [chance.choice(list(KINDS.values()))(chance, 1 + size // 6) for _ in range(6)]
    return chance.choice(["", " ", "\n", "\n```\n"]).join(pieces)


KINDS["mixed"] = mixed

MODELS = ["gpt-4o", "gpt-4o-mini-2024-07-18", "gpt-4.1-nano", "gpt-5", "o1", "o3-mini", "gpt-oss-120b", "some-model"]
MODELS += ["gpt-4", "gpt-4-turbo-2024-04-09", "gpt-4-32k-0613", "gpt-3.5-turbo", "gpt-3.5-turbo-0301", "ft:gpt-3.5-turbo-0125:us::x"]


def vocabulary(model):
    """By tiktoken's table; what is not in it has the newest."""
    try:
        return tiktoken.encoding_for_model(model)
    except KeyError:
        return tiktoken.get_encoding("o200k_base")


def tokens(model, text):
    return len(vocabulary(model).encode(text, disallowed_special=()))


def prompt_tokens(model, messages):
    """`num_tokens_from_messages` of OpenAI's cookbook."""
    per_message, per_name = (4, -1) if model == "gpt-3.5-turbo-0301" else (3, 1)
    count = 3
    for message in messages:
        count += per_message + sum(tokens(model, value) for value in message.values()) + (per_name if "name" in message else 0)
    return count


class Upstream(http.server.ThreadingHTTPServer):
    """Answers what it was told to, and never says what that took."""

    daemon_threads = True
    # The text for a request's `user`, and the pieces that it streams.
    answers = {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        ask = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.endswith("/embeddings"):
            return self.answer("application/json", json.dumps({"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "model": "x"}).encode())
        pieces, is_ascii = Upstream.answers[ask["user"]]
        if not ask.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": "".join(pieces)}, "finish_reason": "stop"}
            whole = {"id": "x", "object": "chat.completion", "created": 1, "model": ask["model"], "choices": [choice]}
            return self.answer("application/json", json.dumps(whole, ensure_ascii=is_ascii).encode())
        events = [{"delta": {"role": "assistant", "content": ""}}, *({"delta": {"content": piece}} for piece in pieces), {"delta": {}, "finish_reason": "stop"}]
        head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": ask["model"]}
        text = "".join(f"data: {json.dumps({**head, 'choices': [{'index': 0, **event}]}, ensure_ascii=is_ascii)}\n\n" for event in events)
        self.answer("text/event-stream", (text + "data: [DONE]\n\n").encode())

    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def pieces_of(chance, text):
    """A text as a model says it: a few characters at a time."""
    out, at = [], 0
    while at < len(text):
        step = chance.randrange(1, 12)
        out.append(text[at : at + step])
        at += step
    return out


class World:
    def __init__(self, args):
        self.base, self.admin, self.log = urlsplit(args.base_url), urlsplit(args.admin_url), pathlib.Path(args.log)
        self.rounds = args.rounds
        self.chance = random.Random(args.seed)
        self.client = http.client.HTTPConnection(self.base.hostname, self.base.port, timeout=60)
        self.sent = 0
        self.told = {"prompt": 0, "completion": 0}

    def ask(self, path, body):
        """The request's id."""
        # Escapes of either sort: what is counted is the text.
        text = json.dumps(body, ensure_ascii=self.chance.random() < 0.5)
        self.client.request("POST", self.base.path + path, text.encode(), {"content-type": "application/json"})
        answer = self.client.getresponse()
        said = answer.read()
        assert answer.status == 200, (answer.status, said[:300])
        self.sent += 1
        return answer.getheader("x-request-id")

    def until(self, what, find):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            if found := find():
                return found
            assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s: {what}"
            threading.Event().wait(0.05)

    def lines(self):
        """What was logged, by request; once all of it is."""

        def all_of_it():
            text = self.log.read_text() if self.log.exists() else ""
            return text if text.count("\n") >= self.sent else None

        rows = [json.loads(line) for line in self.until(f"{self.sent} lines", all_of_it).splitlines()]
        return {row["request_id"]: row for row in rows}

    def metric(self, name, **labels):
        connection = http.client.HTTPConnection(self.admin.hostname, self.admin.port, timeout=10)
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
        connection.close()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in page.splitlines() if line.startswith((name + "{", name + " ")) and all(want in line for want in wanted)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


class Deviations:
    """How far estimates are off, by vocabulary and what was counted."""

    def __init__(self):
        self.all = {}

    def note(self, of, estimate, truth):
        off = abs((estimate or 0) - truth) / max(truth, 1)
        self.all.setdefault(of, []).append(off)
        return off

    def show(self):
        for of, each in sorted(self.all.items()):
            print(f"     {' '.join(of)}: {len(each)} counted, worst off by {max(each):.3%}, mean {sum(each) / len(each):.4%}", flush=True)


def chats_have_the_tokens_that_tiktoken_counts(world):
    chance, deviations, wrong = world.chance, Deviations(), []
    for number in range(world.rounds):
        asked = {}
        for kind, text in KINDS.items():
            for model in chance.sample(MODELS, 4):
                messages = []
                for _ in range(chance.choice([1, 1, 2, 5, 12])):
                    role = chance.choice(["system", "user", "assistant"])
                    name = {"name": chance.choice(["example_user", "Zoë", "alice-1"])} if chance.random() < 0.25 else {}
                    messages.append({"role": role, **name, "content": text(chance, chance.choice([0, 3, 40, 400, 4_000]))})
                answer = text(chance, chance.choice([1, 30, 300, 3_000]))
                user = f"{number}-{kind}-{model}"
                Upstream.answers[user] = pieces_of(chance, answer), chance.random() < 0.5
                body = {"model": f"{UPSTREAM}/{model}", "user": user, "messages": messages}
                body |= {"stream": True} if chance.random() < 0.5 else {}
                id = world.ask("/chat/completions", body)
                asked[id] = user, model, prompt_tokens(model, messages), tokens(model, answer)
        rows = world.lines()
        for id, (user, model, prompt, completion) in asked.items():
            row = rows[id]
            assert row["tokens_source"] == "bpe", (user, row)
            name = vocabulary(model).name.replace("harmony", "base")
            for what, truth in [("prompt", prompt), ("completion", completion)]:
                estimate = row.get(f"{what}_tokens")
                world.told[what] += estimate or 0
                if deviations.note((name, what), estimate, truth) > DEVIATION_MAX:
                    wrong.append(f"{user}: {what} {estimate} and not {truth}")
    deviations.show()
    assert {name for name, _ in deviations.all} == {"o200k_base", "cl100k_base"}
    assert not wrong, wrong[:10]
    # The book says what the log says, once the estimator's last sheet is in it: a line may be there before.
    world.until("an estimate for each", lambda: world.metric("rw_estimates_total", by="bpe") == world.sent)
    for what, sum_of in world.told.items():
        shown = world.metric("rw_tokens_total", type=what, source="estimate")
        assert shown == sum_of, (what, shown, sum_of)
    assert world.metric("rw_estimates_total", by="bytes") == 0


def every_model_of_tiktoken_s_table_has_its_vocabulary(world):
    # Told apart by each of these, and by nothing less than the vocabulary itself.
    text = " ".join(LANGUAGES.values())
    newer, older = (len(tiktoken.get_encoding(name).encode(text)) for name in ("o200k_base", "cl100k_base"))
    assert abs(newer - older) / newer > 0.1, (newer, older)
    table = dict(tiktoken.model.MODEL_TO_ENCODING)
    for begin, name in tiktoken.model.MODEL_PREFIX_TO_ENCODING.items():
        table[f"{begin}:us::x" if begin.startswith("ft:") else f"{begin}x"] = name
    known = {model: name for model, name in table.items() if name in ("o200k_base", "o200k_harmony", "cl100k_base")}
    assert len(known) > 25, known
    asked = {}
    for model, name in known.items():
        Upstream.answers["table"] = [text], False
        asked[world.ask("/chat/completions", {"model": f"{UPSTREAM}/{model}", "user": "table", "messages": []})] = model, name
    rows = world.lines()
    wrong = {model: name for id, (model, name) in asked.items() if rows[id]["completion_tokens"] != len(tiktoken.get_encoding(name).encode(text))}
    assert not wrong, wrong
    print(f"     {len(known)} models", flush=True)


def embeddings_have_the_tokens_that_tiktoken_counts(world):
    asked = {}
    for kind, text in KINDS.items():
        texts = [text(world.chance, 300) for _ in range(3)]
        model = world.chance.choice(["text-embedding-3-small", "text-embedding-ada-002"])
        id = world.ask("/embeddings", {"model": f"{UPSTREAM}/{model}", "input": texts})
        asked[id] = kind, sum(tokens(model, text) for text in texts)
    rows = world.lines()
    for id, (kind, truth) in asked.items():
        assert abs(rows[id]["prompt_tokens"] - truth) <= DEVIATION_MAX * truth, (kind, rows[id], truth)


CASES = [
    chats_have_the_tokens_that_tiktoken_counts,
    every_model_of_tiktoken_s_table_has_its_vocabulary,
    embeddings_have_the_tokens_that_tiktoken_counts,
]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--base-url", required=True, help="the gateway's /v1")
    arguments.add_argument("--admin-url", required=True)
    arguments.add_argument("--upstream-port", type=int, required=True, help="where its provider `up` is to listen")
    arguments.add_argument("--log", required=True, help="its access log, in JSON")
    arguments.add_argument("--rounds", type=int, default=4, help="times four chats of each kind")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--filter", default="")
    args = arguments.parse_args()
    upstream = Upstream(("127.0.0.1", args.upstream_port), Handler)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    world = World(args)
    passed = failed = 0
    for case in CASES:
        if args.filter not in case.__name__:
            continue
        try:
            case(world)
            passed += 1
            print(f"ok   {case.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL {case.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
