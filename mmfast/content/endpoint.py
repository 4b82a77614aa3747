"""A client of OpenAI-compatible chat endpoints: paced, repeated with back-off, counted, and silent about its key."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit, urlunsplit

from pydantic import Field

from mmfast.config import Config
from mmfast.content.chat import Question, Reply, Stopped
from mmfast.content.images import Unreadable, open_picture
from mmfast.errors import MmfastError

PATH = "/chat/completions"
MOST_REPLY_BYTES = 8 << 20
SHOWN_CHARACTERS = 300  # of a server's own words in a message
HOPELESS = (301, 302, 303, 307, 308, 401, 402, 404, 405)  # nothing about one question: the settings are wrong
PASSING = (408, 409, 423, 425, 429)  # and every 5xx
NOBODY = (ConnectionRefusedError, socket.gaierror)  # no server listens, no such host
JPEG_QUALITY = 92
LEAST_KEY = 8  # characters; a shorter value of a query is no key, and may stand in any message
KEY_NAME = re.compile("key|token|secret|sig|auth|pass|code", re.IGNORECASE)  # of parts of a query that are hidden


class EndpointSettings(Config):
    """Which endpoint answers, how fast it may be asked, and what it costs."""

    url: str = "http://127.0.0.1:8000/v1"
    """Base address of the API; /chat/completions is appended."""
    model: str = Field("", max_length=200)
    """Model name as the endpoint knows it."""
    name: str = Field("", max_length=200)
    """Stands for the address in the keys of answers: behind another address is another model, unless this is equal."""
    key_variable: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; without the variable no key is sent."""
    concurrency: int = Field(8, ge=1, le=256)
    """Requests under way at once."""
    timeout_seconds: float = Field(120.0, gt=0)
    """Longest time for one request."""
    retries: int = Field(6, ge=0, le=30)
    """Further attempts after a passing failure: no connection, time-out, 408, 429, 5xx, malformed reply."""
    backoff_seconds: float = Field(1.0, ge=0)
    """Wait before the first further attempt, doubled each time; Retry-After of the server counts if it is longer."""
    longest_wait_seconds: float = Field(300.0, ge=0)
    """No wait after a failure is longer than this."""
    requests_per_minute: float | None = Field(None, gt=0)
    """Most requests started per minute, further attempts included."""
    temperature: float = Field(0.0, ge=0)
    """0 asks for the most probable answer."""
    image_side: int = Field(1120, ge=32)
    """Pictures are sent with at most this many pixels on the longer side."""
    extra: dict[str, Any] = Field({})
    """Further fields of the request's body; null removes one, for example {max_tokens: null}."""
    cost_per_million_prompt: float = Field(0.0, ge=0)
    """Price of a million prompt tokens."""
    cost_per_million_completion: float = Field(0.0, ge=0)
    """Price of a million completion tokens, in the same currency."""


class _Passing(Exception):
    """A failure that another attempt may not meet; `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class Endpoint:
    """Asks an OpenAI-compatible endpoint; one object may be used from several threads.

    >>> Endpoint(EndpointSettings(model="m"), max_new_tokens=16).reply([Question("a", "Say yes.")])  # doctest: +SKIP
    [Reply(text='Yes.', prompt_tokens=11, completion_tokens=2, attempts=1, failure='', again=False, scores=())]

    `requests` counts the attempts made. Raises MmfastError for settings that cannot be right.
    """

    block = 1

    def __init__(self, settings: EndpointSettings, max_new_tokens: int) -> None:
        self._options, self._max_new_tokens = settings, max_new_tokens
        self._url = _address(settings.url)
        self._shown, query = _no_query(self._url), urlsplit(self._url).query  # which may hold a key
        if not settings.model:
            raise MmfastError("endpoint: no model is named; set endpoint.model to a name the endpoint knows")
        if not re.fullmatch(r"[A-Za-z_]\w*", settings.key_variable):
            # What was got is not shown: it is probably the key itself.
            raise MmfastError("endpoint.key_variable is the name of an environment variable, such as OPENAI_API_KEY")
        self._key = os.environ.get(settings.key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise MmfastError(
                f"the environment variable {settings.key_variable} holds characters that no key has; set it anew"
            )
        self._secrets = [secret for secret in (self._key, *_keys_of(query)) if secret]
        self.tag, self.concurrency, self.requests = settings.model, settings.concurrency, 0
        self.settings = {
            "endpoint": settings.name or self._shown,
            "max_new_tokens": max_new_tokens,
            **settings.model_dump(include={"temperature", "image_side", "extra"}),
        }
        self._found = False  # whether a server was ever there
        self._stopped, self._lock, self._next_start = threading.Event(), threading.Lock(), 0.0
        self._held_until = 0.0
        self._opener, self._random = urllib.request.build_opener(_NoRedirects), random.Random()

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of so many tokens."""
        prices = self._options
        whole = prompt_tokens * prices.cost_per_million_prompt + completion_tokens * prices.cost_per_million_completion
        return whole / 1e6

    def stop(self) -> None:
        """Make every wait, now and later, raise Stopped; requests under way still end by themselves."""
        self._stopped.set()

    def reply(self, questions: Sequence[Question]) -> list[Reply]:
        """Return a reply per question, asked one after the other; see `Reply` for what could not be answered.

        Raises MmfastError when no question can succeed: wrong address, wrong key, unknown model.
        """
        return [self._ask(question) for question in questions]

    def _ask(self, question: Question) -> Reply:
        try:
            body = json.dumps(self._body(question)).encode()
        except Unreadable as error:
            return Reply(failure=f"picture: {error}", attempts=0)
        reason, attempts = "", 1 + self._options.retries
        for attempt in range(1, attempts + 1):
            self._wait_for_turn()
            try:
                return replace(self._post(body), attempts=attempt)
            except _Passing as trouble:
                reason = self._without_key(str(trouble))
                self._hold(trouble.wait)
                # A random share of the wait keeps many askers from coming back all at the same moment.
                wait = self._options.backoff_seconds * 2 ** (attempt - 1) * self._random.uniform(0.5, 1.0)
            if attempt < attempts:
                self._sleep(min(wait, self._options.longest_wait_seconds))
        return Reply(attempts=attempts, failure=f"{reason} (after {attempts} attempts)", again=True)

    def _body(self, question: Question) -> dict[str, Any]:
        content: Any = question.prompt
        if question.image is not None:
            picture = {"type": "image_url", "image_url": {"url": self._data_url(question)}}
            content = [{"type": "text", "text": question.prompt}, picture]
        body = {
            "model": self._options.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self._max_new_tokens,
            "temperature": self._options.temperature,
            **self._options.extra,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _data_url(self, question: Question) -> str:
        picture = open_picture(question.image, question.image_hash)
        picture.thumbnail((self._options.image_side, self._options.image_side))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    def _post(self, body: bytes) -> Reply:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "mmfast"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, body, headers, method="POST")
        with self._lock:
            self.requests += 1
        try:
            deadline = time.monotonic() + self._options.timeout_seconds
            with self._opener.open(request, timeout=self._options.timeout_seconds) as response:
                self._found = True
                return _read_completion(_read_all(response, deadline))
        except urllib.error.HTTPError as error:
            self._found = True
            return self._judge(error)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            if not self._found and isinstance(reason, NOBODY) and reason.errno != socket.EAI_AGAIN:
                raise MmfastError(
                    f"nobody answers at {self._shown}: {_words(error)}; start the server, or check endpoint.url"
                ) from None
            # A reset, a refused connection and a time-out are all an OSError; a cut-off reply is an HTTPException.
            raise _Passing(f"no reply from {self._shown}: {_words(error)}") from None

    def _judge(self, error: urllib.error.HTTPError) -> Reply:
        """Return the reply to a refused question; raise _Passing or MmfastError for the other HTTP errors."""
        with error:
            code, words = _explanation(error)
        words = _short(self._without_key(words))
        told = f"the endpoint answered {error.code}: {words}"
        if error.code in HOPELESS:
            raise MmfastError(f"{told}. {self._advice(error)}")
        if error.code in PASSING or error.code >= 500:
            raise _Passing(told, _retry_after(error.headers))
        if "content_filter" in code or "content_policy" in code:
            return Reply(failure=f"refused by the content filter: {words}")
        return Reply(failure=told, again=True)

    def _without_key(self, words: str) -> str:
        for secret in self._secrets:
            words = words.replace(secret, "(key)")
        return words

    def _advice(self, error: urllib.error.HTTPError) -> str:
        if error.code < 400:
            return f"Set endpoint.url to where it moved: {_no_query(error.headers.get('Location', 'not told'))}"
        if error.code in (401, 402):
            has = "has a key that is not accepted" if self._key else "is not set"
            return f"The environment variable {self._options.key_variable} {has}; set it, or ask for credit"
        return f"Check endpoint.url ({self._shown} was asked) and endpoint.model ('{self._options.model}')"

    def _wait_for_turn(self) -> None:
        gap = 60 / self._options.requests_per_minute if self._options.requests_per_minute else 0.0
        start = -1.0
        while start < self._held_until:  # a hold may come while others sleep until their turn
            with self._lock:
                start = max(time.monotonic(), self._next_start)
                self._next_start = start + gap
            self._sleep(start - time.monotonic())

    def _hold(self, seconds: float) -> None:
        """Let no request start for so long: what the server asked of one asker holds for all."""
        if seconds > 0:
            until = time.monotonic() + min(seconds, self._options.longest_wait_seconds)
            with self._lock:
                self._held_until = max(self._held_until, until)
                self._next_start = max(self._next_start, until)

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(max(seconds, 0.0)):
            raise Stopped


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: following one would carry the key to a place nobody named, and turn the POST into a GET."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        """Follow nothing; the caller sees the 3xx as an error."""


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and re.fullmatch("[!-~]+", url)
        unquote(parts.hostname or "").encode("idna")  # as it is looked up
    except ValueError:  # a port that is no number, a bracket that does not close, a part of a name that cannot be one
        whole = False
    if not whole or "@" in parts.netloc:
        shown = f"'{_no_query(url)}'" if "@" not in url else "an address with a name and a password"
        raise MmfastError(
            f"endpoint.url: got {shown}; want one like https://api.openai.com/v1, of ASCII characters (others as "
            "%C3%BC in a path and as xn-- in a name), and the key in a variable"
        )
    path = parts.path.rstrip("/")
    return urlunsplit(parts._replace(path=path if path.endswith(PATH) else path + PATH, fragment=""))


def _keys_of(query: str) -> Iterator[str]:
    """Yield what may be a key in the query of an address, as it stands there and as a server reads it."""
    for part in query.split("&"):
        name, sign, value = part.partition("=")
        value = value if sign else name
        if len(value) >= LEAST_KEY and (not sign or KEY_NAME.search(name)):
            yield from {value, unquote_plus(value)}


def _no_query(url: str) -> str:
    return url.partition("?")[0]


def _read_all(response: Any, deadline: float) -> bytes:
    """Read a body whose sender may drip: the socket's time-out counts from byte to byte, the deadline does not."""
    whole = bytearray()
    while part := response.read1(1 << 16):
        whole += part
        if len(whole) > MOST_REPLY_BYTES:
            raise _Passing(f"the reply is longer than {MOST_REPLY_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    return bytes(whole)


def _read_completion(body: bytes) -> Reply:
    try:
        data = json.loads(body)
        choice = data["choices"][0]
        message, ended = choice["message"], choice.get("finish_reason")
        text = message.get("content") or ""
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair could not be written to a file
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _Passing(f"the reply is no chat completion: {_words(body.decode('utf-8', 'replace'))}") from None
    usage = data.get("usage")
    counts = {name: _count(usage, name) for name in ("prompt_tokens", "completion_tokens")}
    if message.get("refusal") or ended == "content_filter":
        return Reply(**counts, failure=f"refused: {_words(message.get('refusal') or 'content filter')}")
    return Reply(text, **counts)


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return int(value) if type(value) in (int, float) and value >= 0 and value == value // 1 else 0


def _explanation(error: urllib.error.HTTPError) -> tuple[str, str]:
    """Return the code and the words of an error reply, as far as it has some."""
    try:
        body = error.read(MOST_REPLY_BYTES)
    except (OSError, HTTPException):
        return "", str(error.reason)
    try:
        told = json.loads(body)["error"]
        return str(told.get("code")), _line(told["message"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", _line(body.decode("utf-8", "replace")) or str(error.reason)


def _words(value: object) -> str:
    """Return an error or a text as one short line."""
    return _short(_line(value))


def _line(value: object) -> str:
    return " ".join(str(getattr(value, "reason", None) or value).split()) or type(value).__name__


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of a Retry-After header, which may also be a date; 0 without one that can be read."""
    value = headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
