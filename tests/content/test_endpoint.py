"""The endpoint client against a server that answers, refuses, hangs, drops connections and talks nonsense."""

from __future__ import annotations

import base64
import email.utils
import io
import time

import pytest
from PIL import Image

from mmfast.content.chat import Question, Stopped
from mmfast.content.endpoint import Endpoint, EndpointSettings
from mmfast.errors import MmfastError
from tests.content.chat_server import KEY_VARIABLE, ChatServer, completion, cut, drip, fail, hang, raw, reset, say

KEY = "sk-very-secret-123"
QUERY_KEY = "sk-QUERY-456"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def endpoint(server, **settings):
    settings = {"timeout_seconds": 5, "backoff_seconds": 0.01, "key_variable": KEY_VARIABLE, **settings}
    return Endpoint(EndpointSettings(url=server.url, model="m", **settings), max_new_tokens=16)


def ask(acts, **settings):
    """Return the one reply to acts that a server plays in turn, and the server."""
    with ChatServer(acts) as server:
        return endpoint(server, **settings).reply([Question("a", "What?")])[0], server


def behind_query(server, **settings):
    """Return an endpoint whose address has a key in its query."""
    settings = {"backoff_seconds": 0.01, "retries": 0, **settings}
    url = f"{server.url}?version=1&key={QUERY_KEY}"
    return Endpoint(EndpointSettings(url=url, model="m", **settings), max_new_tokens=16)


def test_a_question_and_its_answer():
    reply, server = ask([say("A mug.", prompt_tokens=12, completion_tokens=4)])
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens, reply.attempts) == ("A mug.", 12, 4, 1)
    assert not reply.failure
    messages = [{"role": "user", "content": "What?"}]
    assert server.bodies == [{"model": "m", "messages": messages, "max_tokens": 16, "temperature": 0.0}]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert server.paths == ["/v1/chat/completions"]


def test_extra_fields_enter_the_body_and_null_removes_one():
    _, server = ask([say("x")], extra={"max_tokens": None, "max_completion_tokens": 16, "seed": 1})
    assert "max_tokens" not in server.bodies[0]
    assert (server.bodies[0]["max_completion_tokens"], server.bodies[0]["seed"]) == (16, 1)


def test_without_the_variable_no_key_is_sent(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE)
    _, server = ask([say("x")])
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    "trouble",
    [
        fail(429),
        fail(500),
        fail(503),
        fail(408),
        raw(b"<html>gateway</html>"),
        raw(b""),
        raw(b"[1, 2]"),
        raw(b"[" * 100_000),
        raw(b'{"choices": []}'),
        raw(b'{"choices": [{"message": {"content": 7}}]}'),
        raw(b"\xff\xfe\x00"),
        raw(b"upstream broke", 502),
        reset,
        cut,
    ],
)
def test_a_passing_failure_is_asked_again(trouble):
    reply, server = ask([trouble, trouble, say("A mug.")])
    assert (reply.text, reply.attempts, len(server.bodies)) == ("A mug.", 3, 3)


def test_the_reason_is_told_when_attempts_run_out():
    reply, server = ask([fail(500, "out of memory")], retries=2)
    assert reply.failure == "the endpoint answered 500: out of memory (after 3 attempts)"
    assert reply.again and reply.text == "" and reply.attempts == 3
    assert len(server.bodies) == 3


@pytest.mark.parametrize("slow", [hang(20), drip(20)])
def test_a_request_that_takes_too_long_is_given_up(slow):
    start = time.monotonic()
    reply, _ = ask([slow, say("A mug.")], timeout_seconds=0.3)
    assert (reply.text, reply.attempts) == ("A mug.", 2)
    assert time.monotonic() - start < 15


def test_an_address_where_nobody_ever_was_ends_the_run():
    with ChatServer([say("x")]) as server:
        talker = endpoint(server)
    with pytest.raises(MmfastError, match=r"nobody answers at http://127.*refused; start the server, or check"):
        talker.reply([Question("a", "What?")])
    talker = Endpoint(EndpointSettings(url="http://no-such-host.invalid/v1", model="m"), max_new_tokens=16)
    with pytest.raises(MmfastError, match=r"nobody answers at http://no-such-host\.invalid/v1"):
        talker.reply([Question("a", "What?")])
    assert talker.requests == 1


def test_a_server_that_is_gone_is_a_failure_that_may_pass():
    with ChatServer([say("x")]) as server:
        talker = endpoint(server, retries=1)
        talker.reply([Question("b", "What?")])
        talker.requests = 0
    reply = talker.reply([Question("a", "What?")])[0]
    assert reply.again and "no reply from http://127.0.0.1" in reply.failure
    assert talker.requests == 2


@pytest.mark.parametrize("value", [lambda: "0.4", lambda: email.utils.formatdate(time.time() + 2, usegmt=True)])
def test_retry_after_is_waited_for(value):
    def busy(handler):
        fail(429, headers=[("Retry-After", value())])(handler)

    reply, server = ask([busy, say("A mug.")], backoff_seconds=0)
    assert reply.text == "A mug."
    assert server.times[1] - server.times[0] > 0.35


def test_a_wait_has_a_longest_length():
    reply, server = ask([fail(429, headers=[("Retry-After", "9999")]), say("A mug.")], longest_wait_seconds=0.2)
    assert reply.text == "A mug."
    assert server.times[1] - server.times[0] < 60


def test_back_off_doubles():
    _, server = ask([fail(500), fail(500), fail(500), say("x")], backoff_seconds=0.1)
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert gaps[0] > 0.05 and gaps[1] > 0.1 and gaps[2] > 0.2


def test_requests_are_paced():
    with ChatServer([say("x")]) as server:
        endpoint(server, requests_per_minute=600, longest_wait_seconds=0.01).reply(
            [Question(str(n), "What?") for n in range(4)]
        )
    assert server.times[3] - server.times[0] > 0.28


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (fail(401, f"bad key {KEY}"), KEY_VARIABLE),
        (fail(402, "no credit"), "credit"),
        (fail(404, "no such model"), "endpoint.model \\('m'\\)"),
        (fail(308, headers=[("Location", "https://elsewhere.example/v1")]), "elsewhere.example"),
    ],
)
def test_a_wrong_setting_ends_the_run_with_advice(act, told):
    with pytest.raises(MmfastError, match=told) as error:
        ask([act])
    assert KEY not in str(error.value)


def test_a_missing_key_is_told_as_such(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(MmfastError, match="is not set"):
        ask([fail(401)])


def test_a_question_the_endpoint_cannot_take_fails_alone():
    reply, server = ask([fail(400, "context too long"), say("x")])
    assert reply.failure == "the endpoint answered 400: context too long"
    assert reply.again and len(server.bodies) == 1


@pytest.mark.parametrize(
    "act",
    [
        say(None, refusal="I will not"),
        raw(b'{"choices": [{"finish_reason": "content_filter", "message": {"content": ""}}]}'),
        fail(400, "filtered", code="content_filter"),
    ],
)
def test_a_refusal_is_final(act):
    reply, server = ask([act])
    assert reply.failure.startswith("refused") and not reply.again
    assert len(server.bodies) == 1


def test_no_content_is_an_empty_answer():
    assert ask([say(None)])[0].text == ""


def test_half_a_character_does_not_break_the_answer():
    assert ask([raw(b'{"choices": [{"message": {"content": "mug \\ud83d"}}]}')])[0].text == "mug ?"


@pytest.mark.parametrize(("told", "counted"), [(7.0, 7), (True, 0), (-4, 0), (2.5, 0), ("9", 0), (float("inf"), 0)])
def test_tokens_are_counted_where_their_number_can_be_one(told, counted):
    reply, _ = ask([say("x", prompt_tokens=told)])
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("x", counted, 3)


def test_a_reply_without_usage_counts_nothing():
    body = completion("A mug.")
    del body["usage"]
    reply, _ = ask([lambda handler: handler.send(200, body)])
    assert (reply.text, reply.prompt_tokens) == ("A mug.", 0)


def test_the_key_never_shows(caplog):
    reply, _ = ask([fail(500, f"broken for {KEY}")], retries=0)
    assert KEY not in reply.failure and "(key)" in reply.failure
    with ChatServer([say("x")]) as server:
        talker = endpoint(server)
    assert KEY not in repr(talker) + repr(talker.settings) + caplog.text


def test_stopping_ends_every_wait():
    with ChatServer([fail(500)]) as server:
        talker = endpoint(server, backoff_seconds=60)
        talker.stop()
        with pytest.raises(Stopped):
            talker.reply([Question("a", "What?")])


def test_pictures_are_sent_as_small_jpegs(tmp_path):
    Image.new("RGBA", (400, 200), (255, 0, 0, 255)).save(tmp_path / "red.png")
    with ChatServer([say("red")]) as server:
        endpoint(server, image_side=100).reply([Question("a", "What?", tmp_path / "red.png")])
    text, picture = server.bodies[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "What?"}
    head, _, data = picture["image_url"]["url"].partition(",")
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (head, sent.format, sent.size, sent.mode) == ("data:image/jpeg;base64", "JPEG", (100, 50), "RGB")
    assert sent.getpixel((50, 25))[0] > 240


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"url": "localhost:8000"}, "localhost:8000"),
        ({"url": "http://127.0.0.1:abc/v1"}, "got 'http://127.0.0.1:abc/v1'; want one like"),
        ({"url": "http://exa mple/v1"}, "want one like"),
        ({"url": "http://[::1/v1"}, "want one like"),
        ({"url": "http://a..b/v1"}, "got 'http://a..b/v1'; want one like"),
        ({"url": "http://%2e%2e/v1"}, "want one like"),
        ({"url": f"http://{'a' * 70}.example/v1"}, "aaaa.example/v1'; want one like"),
        ({"url": "http://x.example/v1/ü"}, "want one like .* of ASCII characters"),
        ({"url": "https://me:secret@x.example"}, "key in a variable"),
        ({"model": ""}, "no model"),
        ({"key_variable": KEY}, "name of an environment variable"),
    ],
)
def test_settings_that_cannot_be_right_are_told(settings, told):
    with pytest.raises(MmfastError, match=told) as error:
        Endpoint(EndpointSettings(**{"model": "m", **settings}), max_new_tokens=16)
    assert "secret" not in str(error.value)


def test_a_key_that_cannot_be_sent_is_told_but_not_shown(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "geheim-schlüssel")
    with pytest.raises(MmfastError, match=KEY_VARIABLE) as error:
        Endpoint(EndpointSettings(model="m", key_variable=KEY_VARIABLE), max_new_tokens=16)
    assert "geheim" not in str(error.value)


def test_cost_is_counted_from_tokens():
    prices = {"cost_per_million_prompt": 2.0, "cost_per_million_completion": 10.0}
    talker = Endpoint(EndpointSettings(model="m", **prices), max_new_tokens=16)
    assert talker.cost(1_000_000, 100_000) == 3.0


def test_a_hold_keeps_those_who_sleep_until_their_turn(monkeypatch):
    now, slept = [100.0], []
    asker = Endpoint(EndpointSettings(model="m", requests_per_minute=60), 8)

    def sleep(seconds):
        slept.append(seconds)
        now[0] += max(seconds, 0)
        if len(slept) == 2:
            asker._hold(30)

    monkeypatch.setattr("mmfast.content.endpoint.time.monotonic", lambda: now[0])
    monkeypatch.setattr(asker, "_sleep", sleep)
    for _ in range(3):
        asker._wait_for_turn()
    assert slept == [0, 1, 30, 1]  # the second asker takes another turn behind the hold, the third the one after it


def test_the_query_of_an_address_is_sent_and_never_shown():
    question = [Question("a", "What?")]
    shown = []
    with ChatServer([reset, fail(500, f"no way to /v1/chat/completions?version=1&key={QUERY_KEY}")]) as server:
        talker = behind_query(server)
        shown += [talker.reply(question)[0].failure for _ in range(2)]
        assert shown[0].startswith(f"no reply from {server.url}/chat/completions: ")
        assert server.paths[0] == f"/v1/chat/completions?version=1&key={QUERY_KEY}"
    acts = [
        fail(404, f"bad key {QUERY_KEY}"),
        fail(308, headers=[("Location", f"https://b.example/v1?key={QUERY_KEY}")]),
    ]
    with ChatServer(acts) as server:
        for words in (f"{server.url}/chat/completions was asked", "where it moved: https://b.example/v1"):
            with pytest.raises(MmfastError, match=words) as error:
                behind_query(server).reply(question)
            shown.append(str(error.value))
    with pytest.raises(MmfastError, match=f"nobody answers at {server.url}/chat/completions: ") as error:
        behind_query(server).reply(question)  # it is closed
    shown.append(str(error.value))
    with pytest.raises(MmfastError, match=r"got 'ftp://a\.example/v1'; want one like") as error:
        Endpoint(EndpointSettings(url=f"ftp://a.example/v1?key={QUERY_KEY}", model="m"), max_new_tokens=16)
    shown.append(str(error.value))
    assert not [words for words in [*shown, str(talker.settings)] if QUERY_KEY in words]


def test_of_a_query_only_what_may_be_a_key_is_hidden_before_messages_are_cut():
    long = "x" * 290
    told = f"{long} api-key=ab+cdefgh ab cdefgh"  # across the place where messages are cut
    for words, shown in ((told, f"{long} api-key=("), ("version 2024-10-21 v1", "version 2024-10-21 v1")):
        with ChatServer([fail(400, words)]) as server:
            url = f"{server.url}?api-version=2024-10-21&api-key=ab+cdefgh&v1"
            talker = Endpoint(EndpointSettings(url=url, model="m", retries=0), max_new_tokens=16)
            failure = talker.reply([Question("a", "What?")])[0].failure
        assert shown in failure and "cdefgh" not in failure
