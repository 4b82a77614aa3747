"""Answer files: whole after any end of the process, asked only what is missing, mended where they are torn."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from mmfast.content.answers import Answers, Asked, Usage, answer_file, ask_missing, count_answers, read_answers
from mmfast.content.chat import Question, Reply
from mmfast.content.endpoint import Endpoint, EndpointSettings
from mmfast.errors import MmfastError
from tests.content.chat_server import ChatServer, fail, say
from tests.full_disk import full_after

CLIENT = """
import sys
from pathlib import Path
from mmfast.content.answers import Answers, ask_missing
from mmfast.content.endpoint import Endpoint, EndpointSettings
from tests.content.test_answers import questions
talker = Endpoint(EndpointSettings(url=sys.argv[1], model="m", concurrency=4), max_new_tokens=8)
with Answers(Path(sys.argv[2])) as answers:
    ask_missing(answers, questions(40), talker)
"""

WHOLE = {"item": "item-1", "key": "k", "prompt": "p", "text": "", "failure": "", "again": False, "scores": []}
WHOLE |= {"prompt_tokens": 0, "completion_tokens": 0, "attempts": 1, "about": {}}
PARTLY = [json.dumps({**WHOLE, "about": None}), json.dumps({k: v for k, v in WHOLE.items() if k != "prompt"})]


def questions(count, key="k"):
    return [Asked(Question(f"item-{n}", f"What is {n}?"), key, "p") for n in range(count)]


class Echo:
    """A talker that answers with the prompt, in blocks, and remembers what it was asked."""

    tag, block, concurrency, settings = "echo", 3, 1, {}

    def __init__(self):
        self.asked = []

    def reply(self, asked):
        self.asked.append([question.item for question in asked])
        return [Reply(f"answer to {question.prompt}") for question in asked]

    def cost(self, prompt_tokens, completion_tokens):
        return 0.0

    def stop(self):
        """Nothing waits here."""


def run(path, asked, talker, **options):
    with Answers(path) as answers:
        ask_missing(answers, asked, talker, **options)
    return [row["item"] for row in map(json.loads, path.read_text().split("\n")[:-1])]


def test_every_item_has_one_line_with_all_that_belongs_to_it(tmp_path):
    seen = []
    items = run(tmp_path / "a" / "x.jsonl", questions(5), Echo(), progress=lambda *at: seen.append(at))
    assert items == [f"item-{n}" for n in range(5)]
    assert seen == [(0, True), (3, False), (2, False)]
    first = json.loads((tmp_path / "a" / "x.jsonl").read_text().splitlines()[0])
    assert first == {
        "item": "item-0",
        "key": "k",
        "prompt": "p",
        "model": "echo",
        "text": "answer to What is 0?",
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "attempts": 1,
        "failure": "",
        "again": False,
        "scores": [],
        "about": {},
    }


def test_what_is_there_is_not_asked_again(tmp_path):
    path, talker = tmp_path / "x.jsonl", Echo()
    run(path, questions(6), talker)
    before = path.read_bytes()
    run(path, questions(6), talker)
    assert len(talker.asked) == 2 and path.read_bytes() == before
    run(path, questions(8), talker)
    assert talker.asked[2:] == [["item-6", "item-7"]]


def test_another_key_is_another_answer(tmp_path):
    path, talker = tmp_path / "x.jsonl", Echo()
    run(path, questions(3), talker)
    assert len(run(path, questions(3, "other"), talker)) == 6
    with Answers(path) as answers:
        assert answers.settled(questions(3)[0]) and answers.settled(questions(3, "other")[0])


@pytest.mark.parametrize("tail", ['{"item": "item-2", "te', "\0\0\0\0", "{"])
def test_a_torn_last_line_is_cut_off_and_asked_again(tmp_path, tail):
    path, talker = tmp_path / "x.jsonl", Echo()
    run(path, questions(3), talker)
    clean = path.read_text()
    path.write_text("".join(clean.splitlines(keepends=True)[:2]) + tail)
    assert [row["item"] for row in read_answers(path)] == ["item-0", "item-1"]
    run(path, questions(3), talker)
    assert path.read_text() == clean
    # The block is asked whole, so that a local model pads it as it did before.
    assert talker.asked[1] == ["item-0", "item-1", "item-2"]


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"item": 3}', '{"item": "item-1", "key": "k"}', *PARTLY])
def test_a_damaged_line_is_counted_and_its_item_asked_again(tmp_path, line):
    path, talker = tmp_path / "x.jsonl", Echo()
    run(path, questions(2), talker)
    first, _ = path.read_text().splitlines()
    path.write_text(f"{first}\n{line}\n")
    told = r"^1 line\(s\) of '.*x.jsonl' are no answers \(line 2\): what no other line answers is asked again"
    with pytest.warns(UserWarning, match=told), Answers(path) as answers:
        ask_missing(answers, questions(2), talker)
        assert all(map(answers.settled, questions(2)))


def test_failures_that_may_pass_are_asked_again_and_others_are_not(tmp_path):
    talker = Echo()
    failures = [Reply(failure="refused"), Reply(failure="time-out", again=True)]
    path = tmp_path / "x.jsonl"
    run(path, questions(2), talker, respond=lambda asked: failures)
    assert [row["failure"] for row in read_answers(path)] == ["refused", "time-out"]
    run(path, questions(2), talker)
    assert [row["failure"] for row in read_answers(path)] == ["refused", ""]
    assert len(path.read_text().splitlines()) == 3


def test_what_earlier_attempts_took_is_not_forgotten(tmp_path):
    path = tmp_path / "x.jsonl"
    for reply in (Reply("", 100, 7, 3, "time-out", again=True), Reply("", 50, 0, 7, "time-out", again=True)):
        run(path, questions(1), Echo(), respond=lambda asked, reply=reply: [reply])
    with Answers(path) as answers:
        usage = ask_missing(answers, questions(1), Echo(), lambda asked: [Reply("a mug", 10, 2)])
    assert (usage.answers, usage.prompt_tokens, usage.completion_tokens, usage.requests) == (1, 160, 9, 11)


def test_what_a_folder_holds_is_counted(tmp_path):
    replies = [Reply("x"), Reply(failure="refused"), Reply(failure="time-out", again=True)]
    run(answer_file(tmp_path, "label", "org/model@12:3"), questions(3), Echo(), respond=lambda asked: replies)
    (tmp_path / "other.txt").write_text("not an answer file")
    assert count_answers(tmp_path) == {"label-org-model-12-3.jsonl": {"answers": 1, "failures": 1, "again": 1}}


def test_items_that_nobody_was_asked_about_do_not_break_the_row_of_failures(tmp_path):
    unread = Reply(failure="picture: torn", attempts=0)
    replies = iter([Reply(failure="time-out", again=True), unread] * 3)
    talker = Echo()
    with Answers(tmp_path / "x.jsonl") as answers, pytest.raises(MmfastError, match="3 questions in a row failed"):
        ask_missing(answers, questions(6), talker, lambda asked: [next(replies) for _ in asked], stop_after=3)


def test_too_many_failures_in_a_row_end_the_run_and_keep_the_answers(tmp_path):
    with ChatServer([say("x")] * 5 + [fail(503, "overloaded")]) as server:
        talker = Endpoint(EndpointSettings(url=server.url, model="m", retries=0, concurrency=1), 8)
        with pytest.raises(
            MmfastError,
            match=r"3 questions in a row failed, the last one \(item 'item-7'\) because: .*overl",
        ) as stop:
            run(tmp_path / "x.jsonl", questions(20), talker, stop_after=3)
    assert "with a larger stop_after (now 3)" in str(stop.value)
    assert len(read_answers(tmp_path / "x.jsonl")) == 8 and len(server.bodies) == 8


def test_an_error_waits_for_what_is_under_way_and_keeps_it(tmp_path):
    def act(body):
        if body["messages"][0]["content"] == "What is 3?":
            return fail(401, "key expired")
        return lambda handler: (time.sleep(0.3), say("slow")(handler))

    with ChatServer(act) as server:
        talker = Endpoint(EndpointSettings(url=server.url, model="m", concurrency=4), 8)
        with pytest.raises(MmfastError, match="key expired"):
            run(tmp_path / "x.jsonl", questions(50), talker)
    assert {row["item"] for row in read_answers(tmp_path / "x.jsonl")} >= {"item-0", "item-1", "item-2"}
    assert len(server.bodies) < 10


def test_usage_counts_all_answers_and_the_new_ones(tmp_path):
    acts = [fail(503), say("x", prompt_tokens=100, completion_tokens=10)]
    with ChatServer(acts) as server, Answers(tmp_path / "x.jsonl") as answers:
        prices = {"cost_per_million_prompt": 1e4, "cost_per_million_completion": 1e5}
        settings = EndpointSettings(url=server.url, model="m", backoff_seconds=0, concurrency=1, **prices)
        first = ask_missing(answers, questions(2), Endpoint(settings, 8))
        second = ask_missing(answers, questions(3), Endpoint(settings, 8))
    assert first == Usage(2, 2, 0, 3, 200, 20, 4.0)
    assert second == Usage(3, 1, 0, 4, 300, 30, 6.0)


def test_requests_run_side_by_side_but_no_more_than_asked_for(tmp_path):
    lock, now, most = threading.Lock(), [0], [0]

    def slow(handler):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.1)
        with lock:
            now[0] -= 1
        say("x")(handler)

    with ChatServer([slow]) as server:
        run(
            tmp_path / "x.jsonl", questions(16), Endpoint(EndpointSettings(url=server.url, model="m", concurrency=4), 8)
        )
    assert 2 <= most[0] <= 4 and sum(server.prompts.values()) == 16


def test_one_process_at_a_time(tmp_path):
    with Answers(tmp_path / "x.jsonl"), pytest.raises(MmfastError, match="another process"):
        Answers(tmp_path / "x.jsonl")
    Answers(tmp_path / "x.jsonl").__exit__()


def test_an_item_given_twice_is_refused(tmp_path):
    with pytest.raises(MmfastError, match="'item-0' is asked about twice"):
        run(tmp_path / "x.jsonl", questions(1) * 2, Echo())


def test_text_of_any_language_survives(tmp_path):
    text = 'Чашка "青い"\u2028\n\t🫖'
    run(tmp_path / "x.jsonl", questions(1), Echo(), respond=lambda asked: [Reply(text)])
    assert read_answers(tmp_path / "x.jsonl")[0]["text"] == text


def test_a_full_disk_loses_no_answer_and_leaves_no_half_line(tmp_path):
    path, talker = tmp_path / "x.jsonl", Echo()
    with full_after(1000), pytest.raises(MmfastError, match="cannot write"):
        run(path, questions(30), talker)
    assert path.read_bytes().endswith(b"\n") and len(read_answers(path)) in (3, 6)
    assert run(path, questions(30), talker) == [f"item-{n}" for n in range(30)]


def test_killed_and_interrupted_nothing_is_lost_and_nothing_asked_twice(tmp_path):
    path, settled, cut_off, repeated = tmp_path / "x.jsonl", set(), set(), []

    def act(body):
        prompt = body["messages"][0]["content"]
        repeated.extend({prompt} & settled)
        return lambda handler: (time.sleep(0.05), say(f"answer to {prompt}")(handler))

    with ChatServer(act) as server:
        for enough, end in ((10, signal.SIGKILL), (24, signal.SIGINT), (40, None)):
            client = subprocess.Popen([sys.executable, "-c", CLIENT, server.url, str(path)], stderr=subprocess.DEVNULL)
            while len(read_answers(path)) < enough and client.poll() is None:
                time.sleep(0.01)
            if end:
                client.send_signal(end)
            client.wait()
            settled |= {row["text"].removeprefix("answer to ") for row in read_answers(path)}
            if end == signal.SIGINT:
                # After Ctrl-C even what was under way is kept: it has been paid for.
                assert settled >= set(server.prompts) - cut_off
            time.sleep(0.2)
            cut_off = set(server.prompts) - settled
    assert client.returncode == 0 and not repeated
    lines = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted(f"answer to What is {n}?" for n in range(40))
    # Only what was under way at the kill, at most 4 requests, was asked a second time.
    assert sum(server.prompts.values()) <= 40 + 4


def test_a_file_system_without_locks_keeps_answers_all_the_same(tmp_path, monkeypatch):
    def none(*given):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("mmfast.content.answers.fcntl.flock", none)
    with Answers(tmp_path / "a.jsonl") as answers:
        ask_missing(answers, questions(3), Echo())
    assert len(read_answers(tmp_path / "a.jsonl")) == 3
