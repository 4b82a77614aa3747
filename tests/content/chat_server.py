"""A local HTTP server that plays an OpenAI-compatible endpoint, well or badly, as a test tells it."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY_VARIABLE = "MMFAST_TEST_KEY"


def completion(text, prompt_tokens=10, completion_tokens=3, **message):
    """A well-formed body with one choice."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}
    return {"object": "chat.completion", "choices": [choice], "usage": usage}


def say(text, **fields):
    """An act: answer with this text."""
    return lambda handler: handler.send(200, completion(text, **fields))


def fail(status, message="no", headers=(), **error):
    """An act: answer with an HTTP error."""
    return lambda handler: handler.send(status, {"error": {"message": message, **error}}, headers)


def raw(body, status=200):
    """An act: send these bytes as the body."""
    return lambda handler: handler.send(status, body)


def reset(handler):
    """An act: drop the connection so that the client sees a reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def cut(handler):
    """An act: promise a body and stop in the middle of it."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def hang(seconds):
    """An act: say nothing for a while."""
    return lambda handler: (time.sleep(seconds), say("too late")(handler))


def drip(seconds):
    """An act: send a reply byte by byte, far too slowly."""

    def act(handler):
        handler.send_response(200)
        handler.end_headers()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)

    return act


class ChatServer:
    """Serves on a free local port in a `with` block; `act` chooses what happens to every request.

    act: called with the request's JSON body, returns an act (say, fail, reset, ...); a list of acts is used up in
    order, its last one stays. `bodies`, `headers` and `times` record all requests.
    """

    def __init__(self, act: Callable | Iterable):
        self.bodies, self.headers, self.times, self.paths = [], [], [], []
        self._lock, self._acts = threading.Lock(), act if callable(act) else list(act)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def prompts(self):
        """How often each prompt was asked; of a picture's question, its text."""
        contents = [body["messages"][-1]["content"] for body in self.bodies]
        return Counter(c if isinstance(c, str) else c[0]["text"] for c in contents)

    def choose(self, handler, body):
        """Record a request and return what happens to it."""
        with self._lock:
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            self.times.append(time.monotonic())
            self.paths.append(handler.path)
            if callable(self._acts):
                return self._acts(body)
            return self._acts.pop(0) if len(self._acts) > 1 else self._acts[0]

    def _handler(server):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                try:
                    server.choose(self, body)(self)
                except OSError:
                    self.close_connection = True  # the client has left, as it does after its time-out

            def send(self, status, body, headers=()):
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                """Print nothing."""

        return Handler
