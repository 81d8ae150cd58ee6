"""A client of services that speak the OpenAI embeddings protocol: asks, waits as it is told, tries again, gives up.

The key is sent in one header and stands nowhere else: no message holds it, also where a service repeats it. Redirects
are not followed, so that it goes to no other host. Thread-safe.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from nmtool.encoders.openai_answer import Answer, TornError, complaint, parse
from nmtool.encoders.openai_plan import address
from nmtool.encoders.resolved import Service
from nmtool.errors import PermissionDeniedError, UnavailableError, UsageError

KEY_NAME = "OPENAI_API_KEY"
_RESUME = "what is stored is kept: the same command goes on from there"
_LONGEST_WAIT_S = 600.0  # who says to come back later than this is told to the user instead
_SLOWEST_S = 60.0
_NEVER_REACHED = 2  # retries where nobody ever answered: a wrong URL, rather than a hiccup
_LEAST_CAP, _NUMBER = 1 << 20, 32  # bytes of an answer: at least so many; for each number
_SHOWN = 200  # characters of a service's own words
_SPLIT = (400, 413, 422)  # the request itself is at fault: a text of it, or how many there are


class RefusedError(Exception):
    """The service won't take this request, and would not take it again: a text too long, or too many of them."""


class StoppedAskingError(Exception):
    """The run is ending: nobody waits for an answer any more."""


class _Again(Exception):
    """Worth another try, after so many seconds where the service says so (else None)."""

    def __init__(self, why: str, after: float | None = None, everybody: bool = False, unreached: bool = False) -> None:
        super().__init__(why)
        self.why, self.after, self.everybody, self.unreached = why, after, everybody, unreached


@dataclass(slots=True)
class Bill:
    """What was asked in this run: requests, how many of them were repeats, and tokens as the service counts them."""

    requests: int = 0
    retries: int = 0
    tokens: int = 0
    model: str = ""
    reached: bool = False
    guard: threading.Lock = field(default_factory=threading.Lock, repr=False)


class Client:
    """A connection to one model of a service. Close it.

    Args:
        service: where, and what to ask for.
        model: the model's name there.
        key: the secret, or empty where the service wants none.
        timeout: seconds for a request, whole.
        max_retries: how often a request is repeated.
        connections: requests in flight at most.
        tell: where news of waiting goes.

    Raises:
        UnavailableError: httpx is not installed.
        UsageError: a key that no header can hold.
    """

    def __init__(
        self,
        service: Service,
        model: str,
        key: str,
        *,
        timeout: float,
        max_retries: int,
        connections: int,
        tell: Callable[[str], None],
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise UnavailableError("httpx is not installed", "it, for openai:", "pip install 'nmtool[api]'") from None
        self._httpx = httpx
        self._service, self._model, self._key = service, model, checked_key(key)
        try:
            self._url = httpx.URL(service.base_url + "/embeddings")
        except httpx.InvalidURL:
            raise UsageError("--base-url is no URL", "the URL of a service") from None
        self.who = f"{model} at {address(service.base_url)}"
        self._timeout, self._most, self._tell = timeout, max_retries, tell
        self.bill = Bill()
        self.dim: int | None = service.dimensions
        self._stop = threading.Event()
        self._quiet_until = 0.0  # nobody asks before: the service said so
        self._dice = random.Random()
        headers = {"Content-Type": "application/json", "User-Agent": "nmtool"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        # An auth of its own, even an empty one, keeps httpx from looking for passwords in ~/.netrc.
        self._http = httpx.Client(
            headers=headers, timeout=timeout, limits=limits, follow_redirects=False, auth=lambda request: request
        )

    def embed(self, texts: Sequence[str]) -> Answer:
        """Embeddings of texts that are sent in one request, none of them empty.

        Raises:
            RefusedError: the service does not take these texts.
            PermissionDeniedError: it does not take the key.
            UnavailableError: it gave no usable answer, also after repeating.
            StoppedAskingError: ``stop`` was called.
        """
        tries = 0
        while True:
            while (left := self._quiet_until - time.monotonic()) > 0:
                self._hold(left)
            if self._stop.is_set():
                raise StoppedAskingError
            try:
                return self._ask(texts)
            except _Again as again:
                most = min(self._most, _NEVER_REACHED) if again.unreached and not self.bill.reached else self._most
                if tries >= most:
                    raise UnavailableError(
                        f"{self.who}: {again.why}, after {tries + 1} attempts", "an answer", _RESUME
                    ) from None
                # half of the wait is by chance, so that those who were turned away together do not return together
                own = min(_SLOWEST_S, 0.5 * 2**tries) * self._dice.uniform(0.5, 1.0)
                wait = own if again.after is None else again.after + self._dice.uniform(0.0, 0.1)
                if again.everybody:
                    self._quiet_until = max(self._quiet_until, time.monotonic() + wait)
                if wait >= 1:
                    self._tell(f"{self.who}: {again.why}; trying again in {wait:.0f} s")
                tries += 1
                with self.bill.guard:
                    self.bill.retries += 1
                self._hold(wait)

    def stop(self) -> None:
        """Let whoever waits give up at once; requests in flight go on."""
        self._stop.set()

    def close(self) -> None:
        """Close all connections."""
        self._stop.set()
        self._http.close()

    def _hold(self, seconds: float) -> None:
        if self._stop.wait(max(0.0, seconds)) or self._stop.is_set():
            raise StoppedAskingError

    def _ask(self, texts: Sequence[str]) -> Answer:
        asked: dict[str, object] = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        if self._service.dimensions is not None:
            asked["dimensions"] = self._service.dimensions
        with self.bill.guard:
            self.bill.requests += 1
        # escaped: a lone surrogate can't be UTF-8
        status, headers, body = self._sent(json.dumps(asked, ensure_ascii=True).encode(), len(texts))
        with self.bill.guard:
            self.bill.reached = True
        if status != 200:
            self._refused(status, headers, body)
        try:
            answer = parse(body, len(texts), self.dim, self.who)
        except TornError as torn:
            raise _Again(str(torn)) from None
        with self.bill.guard:
            self.bill.tokens += answer.tokens or 0
            self.bill.model = self._clean(answer.model)
        return answer

    def _sent(self, body: bytes, count: int) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body; an answer that is longer than it can be is cut off."""
        began = time.monotonic()
        cap = max(_LEAST_CAP, count * (self.dim or 16_384) * _NUMBER)
        parts, size = [], 0
        try:
            with self._http.stream("POST", self._url, content=body) as answer:
                for part in answer.iter_bytes():
                    parts.append(part)
                    size += len(part)
                    if size > cap:
                        raise UnavailableError(f"{self.who} answered more than {cap} bytes for {count} texts", "less")
                    if time.monotonic() - began > self._timeout:
                        raise _Again(f"no whole answer in {self._timeout:g} s")
                return answer.status_code, answer.headers, b"".join(parts)
        except self._httpx.TimeoutException:
            raise _Again(f"no answer in {self._timeout:g} s") from None
        except (self._httpx.TransportError, self._httpx.DecodingError) as error:
            if self._stop.is_set():
                raise StoppedAskingError from None
            why = self._clean(str(error)) or type(error).__name__
            raise _Again(f"no answer ({why})", unreached=isinstance(error, self._httpx.ConnectError)) from None

    def _refused(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Raise what a status that is not 200 stands for."""
        message, code = (self._clean(text) for text in complaint(body))
        said = f": {message}" if message else ""
        if status in (401, 403):
            # its words are not repeated: services quote the key in them
            have = f"the key in ${KEY_NAME}" if self._key else f"a request without a key (${KEY_NAME} is not set)"
            raise PermissionDeniedError(f"{self.who} refuses {have} (HTTP {status})", "", f"set ${KEY_NAME}")
        if status == 429 and code == "insufficient_quota":
            raise UnavailableError(f"{self.who}: the account's quota is used up{said}", "", _RESUME)
        if status in (408, 409, 425, 429) or status >= 500:
            after = retry_after(headers, datetime.now(UTC))
            if after is not None and after > _LONGEST_WAIT_S:
                raise UnavailableError(f"{self.who}: HTTP {status}, come back in {after:.0f} s{said}", "", _RESUME)
            raise _Again(f"HTTP {status}{said}", after, everybody=status == 429 or after is not None)
        if status in _SPLIT:
            raise RefusedError(f"HTTP {status}{said}")
        if 300 <= status < 400:
            where = urlsplit(headers.get("location", "")).hostname or "elsewhere"
            raise UnavailableError(f"{self.who} redirects to {self._clean(where)}", "the URL of the service itself")
        raise UnavailableError(
            f"{self.who}: HTTP {status}{said}",
            "an embeddings service that has this model",
            "check --base-url and MODEL",
        )

    def _clean(self, text: str) -> str:
        """A text from outside without the key, then on one line and shortened: in this order, or a part is left."""
        if self._key:
            text = text.replace(self._key, f"[${KEY_NAME}]")
        line = " ".join(text.split())
        return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def checked_key(key: str | None) -> str:
    """A key as a header can hold it: without white space around it, ASCII; raises ``UsageError`` without quoting it."""
    key = (key or "").strip()
    if any(not 32 < ord(c) < 127 for c in key):
        raise UsageError(f"${KEY_NAME} holds characters that no key has", "printable ASCII without spaces")
    return key


def retry_after(headers: Mapping[str, Any], now: datetime) -> float | None:
    """Seconds that a service says to wait, from ``retry-after-ms`` or ``Retry-After`` (seconds or an HTTP date)."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = str(headers.get(name) or "").strip()
        try:
            seconds = float(text) / scale
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        when = parsedate_to_datetime(str(headers.get("retry-after") or ""))
    except (ValueError, TypeError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
