"""Answers of language models as JSON lines: one per item, on disk as soon as it is there, asked only once."""

from __future__ import annotations

import fcntl
import json
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from mmfast.checkpoint import disk_errors
from mmfast.content.chat import Question, Reply, Talker
from mmfast.data.storage import sync
from mmfast.errors import MmfastError
from mmfast.logs import AppendedFile

Respond = Callable[[Sequence[Question]], list[Reply]]
Progress = Callable[[int, bool], None]
Row = Mapping[str, Any]
COUNTED = ("prompt_tokens", "completion_tokens", "attempts")  # of a reply, added up over the times it was asked for
SHOWN_LINES = 5  # numbers of damaged lines that a warning names


@dataclass(frozen=True)
class Usage:
    """What a set of answers took: all of it, whichever run asked; `new` counts the answers of this run."""

    answers: int
    new: int
    failures: int
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class Asked:
    """A question with the key of all that its answer depends on, and the digest of the prompt file it came from.

    about: JSON values for the answer's line that tell later what it was asked about.
    """

    question: Question
    key: str
    prompt: str
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, str]:
        """Where the answer is kept: the same item asked otherwise is another answer."""
        return self.question.item, self.key


class Answers:
    """A JSON-lines file of answers, held by one process at a time; use it in a `with` block.

    A last line without its end, as a kill or a power cut leaves it, is cut off. Lines that are no answers are told in a
    warning, with their numbers, and asked again; `damaged` holds these. Of two lines for the same item and key the
    later one counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._guard = path.open("ab")
        try:
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._guard.close()
            raise MmfastError(f"another process is writing '{path}'; wait until it ends, then run again") from None
        except OSError:  # the file system has no locks
            pass
        self._rows, self.damaged, whole = _read(path)
        if self.damaged:
            warnings.warn(_damage(path, self.damaged), stacklevel=2)
        self._file, self._lock = AppendedFile(path, whole), threading.Lock()
        sync(path.parent)

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._guard.close()

    def find(self, asked: Asked) -> Row | None:
        """Return the line that answers, or that says why there is no answer; None when it was never asked."""
        return self._rows.get(asked.place)

    def settled(self, asked: Asked) -> bool:
        """Whether there is nothing to ask: an answer is there, or a failure that another run would meet again."""
        row = self.find(asked)
        return row is not None and not row["again"]

    def add(self, asked: Sequence[Asked], replies: Sequence[Reply], tag: str) -> None:
        """Append a line per reply in one write and wait until it is on disk. Raises MmfastError on a full disk."""
        rows = [_row(one, reply, tag, self.find(one)) for one, reply in zip(asked, replies, strict=True)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with self._lock:
            self._file.append(lines.encode())
            self._file.sync()
            self._rows.update({one.place: row for one, row in zip(asked, rows, strict=True)})


def answer_file(folder: Path, task: str, tag: str) -> Path:
    """Return where the answers of a model to a task lie.

    >>> answer_file(Path("answers"), "label", "meta-llama/Llama-2-7b-chat-hf@f5db02db724555f9").name
    'label-meta-llama-Llama-2-7b-chat-hf-f5db02db724555f9.jsonl'
    """
    return Path(folder) / f"{task}-{re.sub(r'[^A-Za-z0-9._]+', '-', tag)}.jsonl"


def read_answers(path: Path) -> list[Row]:
    """Return the lines of an answer file, the latest per item and key, without holding or mending it."""
    return list(_read(path)[0].values()) if path.is_file() else []


def count_answers(folder: Path) -> dict[str, dict[str, int]]:
    """Return, per answer file in a folder, how many answers, final failures, and questions to be asked again it holds.

    >>> count_answers(Path("no such folder"))
    {}
    """
    counts = {}
    for path in sorted(Path(folder).glob("*.jsonl")):
        rows = read_answers(path)
        again, failed = sum(row["again"] for row in rows), sum(bool(row["failure"]) for row in rows)
        counts[path.name] = {"answers": len(rows) - failed, "failures": failed - again, "again": again}
    return counts


def ask_missing(
    answers: Answers,
    asked: Sequence[Asked],
    talker: Talker,
    respond: Respond | None = None,
    *,
    stop_after: int = 20,
    progress: Progress = lambda count, cached: None,
) -> Usage:
    """Ask what `answers` does not settle, in fixed blocks of `asked`, and keep every reply as soon as it is there.

    respond: asks a block through the talker (None: `talker.reply`). stop_after: give up after so many replies in a
    row that failed but may succeed later. progress: told (items done now, whether they were there before).
    A block that a kill cut in two is asked whole, so that padding and bits are those of a run in one go; for an
    endpoint a block is one question. On an error or Ctrl-C what is under way is waited for and kept.
    """
    check_items(asked)
    blocks = [asked[start : start + talker.block] for start in range(0, len(asked), talker.block)]
    todo = [block for block in blocks if not all(map(answers.settled, block))]
    progress(len(asked) - sum(map(len, todo)), True)
    failing, before = _Failing(stop_after), sum(map(answers.settled, asked))

    def work(block: Sequence[Asked]) -> int:
        replies = (respond or talker.reply)([one.question for one in block])
        new = [n for n, one in enumerate(block) if not answers.settled(one)]
        answers.add([block[n] for n in new], [replies[n] for n in new], talker.tag)
        failing.count(block, replies)
        return len(block)

    with _workers(talker) as pool:
        waiting = iter(todo)
        running = {pool.submit(work, block) for block in islice(waiting, talker.concurrency)}
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                progress(future.result(), False)
            running |= {pool.submit(work, block) for block in islice(waiting, len(ended))}
    return _usage([row for row in map(answers.find, asked) if row is not None], talker, before)


class _Failing:
    """Counts the replies in a row that failed for a reason that may pass, and ends the run when they are too many."""

    def __init__(self, most: int) -> None:
        self._most, self._row, self._lock = most, 0, threading.Lock()

    def count(self, asked: Sequence[Asked], replies: Sequence[Reply]) -> None:
        with self._lock:
            for one, reply in zip(asked, replies, strict=True):
                if reply.attempts == 0:  # nobody was asked
                    continue
                self._row = self._row + 1 if reply.again else 0
                if self._row >= self._most:
                    raise MmfastError(
                        f"{self._row} questions in a row failed, the last one (item '{one.question.item}') because: "
                        f"{reply.failure}; the answers so far are kept: run again when this is cured, or with a larger "
                        f"stop_after (now {self._most}) where it is a matter of these questions alone"
                    )


@contextmanager
def _workers(talker: Talker) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(talker.concurrency)
    try:
        yield pool
    except BaseException:
        talker.stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _usage(rows: Sequence[Row], talker: Talker, before: int) -> Usage:
    failures = sum(1 for row in rows if row["failure"])
    return count_usage(Usage(len(rows) - failures, len(rows) - before, failures), rows, talker)


def count_usage(usage: Usage, rows: Sequence[Row], talker: Talker) -> Usage:
    """Return a usage with the requests, tokens and price of the answers `rows`."""
    prompt, completion, requests = (sum(row[name] for row in rows) for name in COUNTED)
    cost = talker.cost(prompt, completion)
    return replace(usage, requests=requests, prompt_tokens=prompt, completion_tokens=completion, cost=cost)


def check_items(asked: Sequence[Asked]) -> None:
    """Raise MmfastError where one item is asked about twice."""
    seen: set[str] = set()
    for one in asked:
        if one.question.item in seen:
            raise MmfastError(f"item '{one.question.item}' is asked about twice; give every item once")
        seen.add(one.question.item)


def _row(asked: Asked, reply: Reply, tag: str, earlier: Row | None) -> dict[str, Any]:
    about = {"item": asked.question.item, "key": asked.key, "prompt": asked.prompt, "model": tag}
    # This line will count alone: what the earlier attempts took, it counts too.
    took = {name: getattr(reply, name) + (earlier[name] if earlier else 0) for name in COUNTED}
    return {**about, **asdict(reply), **took, "scores": list(reply.scores), "about": dict(asked.about)}


def _damage(path: Path, lines: Sequence[int]) -> str:
    named = ", ".join(map(str, lines[:SHOWN_LINES])) + (", ..." if len(lines) > SHOWN_LINES else "")
    return (
        f"{len(lines)} line(s) of '{path}' are no answers (line {named}): what no other line answers is asked again. "
        "Remove these lines once you know what happened to the file"
    )


def _read(path: Path) -> tuple[dict[tuple[str, str], Row], list[int], int]:
    """Return the rows by item and key, the numbers of damaged lines, and the length of all whole lines in bytes."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    rows, damaged = {}, []
    for number, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
        row = _parse(line)
        if row is None:
            damaged.append(number)
        else:
            rows[row["item"], row["key"]] = row
    return rows, damaged, whole


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    wanted = dict.fromkeys(("item", "key", "prompt", "text", "failure"), str)
    wanted |= {"again": bool, "scores": list, "about": dict, **dict.fromkeys(COUNTED, int)}
    good = isinstance(row, dict) and all(isinstance(row.get(name), kind) for name, kind in wanted.items())
    return row if good else None
