"""A stand-in for a teacher's server on this machine: it answers, counts, and misbehaves when told.

`paid` counts the answers that a real server would charge for.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = "<explanation>\nA story about a cat.\n\nEnds in a comma; a verb follows.\n</explanation>"
READ, WRITTEN = 100, 20
WAIT_S = 60


class TeacherServer(ThreadingHTTPServer):
    """`troubles` are taken one a request, in order: a status, or a word `_Handler` knows.

    Attributes:
        crowd: so many questions are waited for before any of them is answered.
        pause_at: once so many are paid, nothing is answered until `resume` is set.
    """

    daemon_threads = True

    def __init__(self, troubles: list[int | str], text: str = GOOD, stop: str = "end_turn") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.troubles, self.text, self.stop = list(troubles), text, stop
        self.asked: list[Any] = []
        self.headers_seen: list[dict[str, str]] = []
        self.batches: dict[str, Any] = {}
        self.paid = self.batch_posts = 0
        self.most_at_once = self.at_once = 0
        self.crowd: threading.Barrier | None = None
        self.pause_at, self.resume = 10**9, threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: TeacherServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.headers_seen.append(dict(self.headers.items()))
            trouble = self.server.troubles.pop(0) if self.server.troubles else None
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            self._misbehave(trouble) or self._answer(body)
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def _misbehave(self, trouble: int | str | None) -> bool:
        """Do what was told instead of an answer; False where an answer is still to come."""
        if isinstance(trouble, int):
            error = {"error": {"message": f"told to say {trouble}"}}
            self._send(trouble, json.dumps(error), {"Retry-After": "0"} if trouble == 429 else {})
        elif trouble == "malformed":
            self._send(200, '{"content": [')
        elif trouble == "cut":
            self._send(200, '{"content"', {"Content-Length": "5000"})
        elif trouble == "slow":
            self._wait_until_asked_again()
        elif self.server.crowd is not None:
            self.server.crowd.wait(WAIT_S)
        elif self.server.paid >= self.server.pause_at:
            self.server.resume.wait(WAIT_S)
        return trouble not in (None, "slow")

    def _wait_until_asked_again(self) -> None:
        """Leave a question unanswered until its patience has ended."""
        so_far, end = len(self.server.headers_seen), time.monotonic() + WAIT_S
        while len(self.server.headers_seen) == so_far and time.monotonic() < end:
            time.sleep(0.005)

    def _answer(self, body: Any) -> None:
        with self.server.lock:
            self.server.asked.append(body)
        if self.path.endswith("/batches"):
            self.server.batch_posts += 1
            name = f"batch_{len(self.server.batches)}"
            self.server.batches[name] = body["requests"]
            self.server.paid += len(body["requests"])
            self._send(200, json.dumps({"id": name, "processing_status": "in_progress"}))
            return
        with self.server.lock:
            self.server.paid += 1
        self._send(200, json.dumps(self._reply()))

    def _reply(self) -> Any:
        if self.path.endswith("/chat/completions"):
            message = {"role": "assistant", "content": self.server.text}
            choice = {"message": message, "finish_reason": self.server.stop}
            usage = {"prompt_tokens": READ, "completion_tokens": WRITTEN}
            return {"choices": [choice], "usage": usage}
        usage = {"input_tokens": READ, "output_tokens": WRITTEN}
        content = [{"type": "text", "text": self.server.text}]
        return {"content": content, "stop_reason": self.server.stop, "usage": usage}

    def do_GET(self) -> None:
        name, _, rest = self.path.removeprefix("/v1/messages/batches/").partition("/")
        if not rest:
            self._send(200, json.dumps({"id": name, "processing_status": "ended"}))
            return
        rows = [
            {
                "custom_id": each["custom_id"],
                "result": {"type": "succeeded", "message": self._reply()},
            }
            for each in self.server.batches[name]
        ]
        self._send(200, "\n".join(json.dumps(row) for row in rows))

    def _send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        data = text.encode()
        given = {"Content-Length": str(len(data)), "Connection": "close"} | (headers or {})
        self.close_connection = True
        try:
            self.send_response(status)
            for name, value in given.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client was killed, or gave up waiting


@contextmanager
def teacher_server(
    *troubles: int | str, text: str = GOOD, stop: str = "end_turn"
) -> Iterator[TeacherServer]:
    """A running server, stopped at the end."""
    server = TeacherServer(list(troubles), text, stop)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
