"""A server on this machine that speaks the OpenAI embeddings protocol, counts what it is asked, misbehaves on order.

Its embeddings are hashed bags of words: the same for the same text, and of some use to a classifier.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import numpy.typing as npt

KEY = "sk-sentinel-4f9c1d77aa0be251"
DIM = 96


def embedding(text: str, dim: int = DIM) -> npt.NDArray[np.float32]:
    """float32 [dim], of length 1."""
    out = np.zeros(dim)
    for word in text.lower().split():
        digest = hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()
        out[int.from_bytes(digest[:4], "big") % dim] += 1 if digest[4] % 2 else -1
        out[int.from_bytes(digest[5:9], "big") % dim] += 0.5
    return (out / max(float(np.linalg.norm(out)), 1e-9)).astype(np.float32)


class Server(ThreadingHTTPServer):
    """``fault(number, texts)`` names what goes wrong with a request, or gives ''. Numbers count from 0."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.fault: Callable[[int, list[str]], str] = lambda number, texts: ""
        self.embedding: Callable[[str, int], npt.NDArray[np.float32]] = embedding
        self.guard = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.answered: Counter[str] = Counter()  # texts whose embedding left the house whole
        self.encoding, self.most_words, self.most_items, self.delay = "float", 10_000, 2048, 0.0
        self.flying = self.most_flying = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def asked(self) -> Counter[str]:
        """Texts of all requests, whatever became of them."""
        return Counter(text for body in self.bodies for text in body["input"])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.guard:
            number = len(server.bodies)
            server.bodies.append(body)
            server.keys.append(self.headers.get("Authorization", ""))
            server.times.append(time.monotonic())
            server.flying += 1
            server.most_flying = max(server.flying, server.most_flying)
        try:
            time.sleep(server.delay)
            self.answer(body, server.fault(number, body["input"]))
        finally:
            with server.guard:
                server.flying -= 1

    def answer(self, body: dict[str, Any], fault: str) -> None:
        texts = body["input"]
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if fault == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif fault == "slow":
            time.sleep(3)
            self.close_connection = True
        elif fault == "drip":
            self.begin(200, {"Content-Length": "1000"})
            for _ in range(30):
                self.wfile.write(b" ")
                time.sleep(0.1)
        elif fault.startswith("429 "):
            when = fault[4:]
            if when.startswith("date "):
                when = format_datetime(datetime.now(UTC) + timedelta(seconds=float(when[5:])), usegmt=True)
            self.say(429, {"error": {"message": f"slow down, {key}", "code": "rate_limit"}}, {"Retry-After": when})
        elif fault == "quota":
            self.say(429, {"error": {"message": "pay", "code": "insufficient_quota"}})
        elif fault == "redirect":
            self.say(307, {}, {"Location": f"http://127.0.0.1:9/{key}"})
        elif fault.isdigit():
            self.say(int(fault), {"error": {"message": f"no: you sent Bearer {key} " + "x" * 150 + key, "code": key}})
        elif fault == "html":
            self.say(200, None)
        elif len(texts) > self.server.most_items:
            self.say(400, {"error": {"message": "batch size should not be larger than that"}})
        elif any(len(text.split()) > self.server.most_words for text in texts):
            self.say(400, {"error": {"message": f"maximum context length exceeded ({key})", "param": "input"}})
        elif any(not text for text in texts):
            self.say(400, {"error": {"message": "input cannot be an empty string"}})
        else:
            self.embed(body, fault)

    def embed(self, body: dict[str, Any], fault: str) -> None:
        texts = body["input"]
        dim = body.get("dimensions", DIM) + (8 if fault == "wrong length" else 0)
        data = [{"object": "embedding", "index": k, "embedding": self.coded(t, dim)} for k, t in enumerate(texts)]
        random.Random(len(texts)).shuffle(data)
        if fault == "too few":
            data = data[1:]
        elif fault == "no index":
            del data[0]["index"]
        elif fault == "same index":
            data[0]["index"] = data[-1]["index"]
        elif fault == "strange index":
            data[0]["index"] = self.headers.get("Authorization")
        elif fault == "nan":
            data[0]["embedding"] = [float("nan"), *[0.5] * (dim - 1)]
        elif fault == "null":
            data[0]["embedding"] = [None] * dim
        elif fault == "words":
            data[0]["embedding"] = ["a"] * dim
        elif fault == "text":
            data[0]["embedding"] = "not base64!"
        elif fault == "endless":
            data[0]["embedding"] = [0.125] * 1_000_000
        found = {
            "object": "list",
            "data": data,
            "model": f"{body['model']}-0613",
            "usage": {"total_tokens": sum(len(text.split()) for text in texts)},
        }
        if fault == "no data":
            found = {"object": "list"}
        if fault == "half":
            raw = json.dumps(found).encode()
            self.begin(200, {"Content-Length": str(len(raw))})
            self.wfile.write(raw[: len(raw) // 2])
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        with self.server.guard:
            self.server.answered.update(texts)
        self.say(200, found)

    def coded(self, text: str, dim: int) -> object:
        values = self.server.embedding(text, dim)
        if self.server.encoding == "base64":
            return base64.b64encode(values.astype("<f4").tobytes()).decode()
        return [float(v) for v in values]

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def say(self, status: int, found: object, headers: dict[str, str] | None = None) -> None:
        raw = b"<html>hello</html>" if found is None else json.dumps(found).encode()
        self.begin(status, {"Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})})
        self.wfile.write(raw)


@contextmanager
def serving(port: int = 0) -> Iterator[Server]:
    """A server in threads of this process."""
    server = Server(port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
