"""Requests to a server that is not trusted: bounded in time and size, without redirects, and with clear errors."""

from __future__ import annotations

import json
import math
import os
import re
import string
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.request import getproxies_environment

from maskrestore.classifiers.retrying import LATER_STATUSES, retry_after
from maskrestore.errors import ClassifierError, ClassifierOutputError, ConfigError, MissingDependencyError, RetryLater

__all__ = ["Reply", "TimeOver", "Transport", "Unanswered", "parsed_json"]


@dataclass(frozen=True)
class Reply:
    """The content of a reply, and its headers."""

    content: bytes
    headers: Mapping[str, str]


class Unanswered(RetryLater):
    """A request was sent and no answer arrived. The server may have done the work, and may charge for it."""


class TimeOver(Unanswered):
    """No answer arrived while somebody waited for it, which was for less time than the server may take."""


class Transport:
    """Sends requests through connections that are used again. Safe for use by several threads; it can be pickled.

    Values from the environment are read when a connection is opened. They are neither kept nor pickled, and are taken
    out of messages.
    """

    def __init__(
        self,
        address: str,
        headers: Mapping[str, str],
        *,
        timeout: float,
        connect_timeout: float,
        connections: int,
        most_bytes: int,
    ) -> None:
        """address: of the server. headers: names, and values. In both, ``$NAME`` is a variable of the environment.

        timeout: seconds for a whole answer, from the request on; connect_timeout: of it, until there is a connection.
        most_bytes: of a reply. Raises ConfigError for what is no address or no
        header, and for a variable that does not exist.
        """
        for name, value in (("timeout", timeout), ("connect_timeout", connect_timeout)):
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be a number of seconds above 0, got {value}")
        for name in headers:
            if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
                raise ConfigError(f"expected the name of a header, got {name!r}")
        if not re.fullmatch(r"https?://[^\s/?#@]+([/?#]\S*)?", address):
            raise ConfigError(
                f"expected an address such as https://host/path, without a name or password, got {_shown(address)!r}; "
                "credentials belong into a header"
            )
        self._address, self._headers = address, dict(headers)
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._connections, self._most_bytes = connections, most_bytes
        self._expand()  # raises here, not at the first picture
        _expanded(address, "the address")
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._client: Any = None
        self._process = 0
        self._reached = False

    def __getstate__(self) -> dict[str, Any]:
        private = ("_lock", "_client", "_process", "_reached")
        return {name: value for name, value in self.__dict__.items() if name not in private}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def send(
        self,
        method: str,
        address: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        until: float = math.inf,
    ) -> Reply:
        """Send a request and return the reply, if its status is 200 to 299.

        until: when nobody waits for the reply any more, by ``time.monotonic``; nothing is sent after it.

        Raises RetryLater if no connection could be opened or the server asks for it, Unanswered if no answer arrived,
        TimeOver if that is due to ``until``, and ClassifierError for everything else. A server that has never been
        reached is an error, too, since its address may be wrong.
        """
        httpx, client = _httpx(), self._opened()
        from maskrestore.classifiers.http_deadlines import ending  # noqa: PLC0415 - an optional extra

        now = time.monotonic()
        left = until - now
        if left <= 0:
            raise TimeOver(None, f"{address}: not asked, since nobody waits for an answer any more")
        full_address = _expanded(address, "the address")
        try:
            with (
                ending(now + min(self._timeout, left)),
                client.stream(method, full_address, content=content, headers=headers) as response,
            ):
                self._reached = True
                return self._read(response, address)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._failure(error, address, left) from None

    def _failure(self, error: Exception, address: str, left: float) -> ClassifierError:
        """What a failed request means. left: seconds that somebody waited for it, at most."""
        httpx = _httpx()
        connecting = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        limit = min(self._connect_timeout, self._timeout) if connecting else self._timeout
        why = str(error) or type(error).__name__
        if isinstance(error, httpx.TimeoutException) and left < limit:
            return TimeOver(None, f"{address}: no answer in the {left:.3g} s that the request had left")
        if connecting:
            message = self._clean(f"{address}: no connection: {why}{_way_out(why)}")
            return RetryLater(None, message) if self._reached else ClassifierError(message)
        if isinstance(error, httpx.TimeoutException):
            return Unanswered(None, f"{address}: no answer: it took longer than {limit:g} s")
        if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
            return Unanswered(None, self._clean(f"{address}: no answer: {why}"))
        return ClassifierError(self._clean(f"{address}: {type(error).__name__}: {error}"))

    def close(self) -> None:
        """Close the connections. A later request opens new ones."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _opened(self) -> Any:
        httpx = _httpx()
        from maskrestore.classifiers.http_deadlines import end_requests_of  # noqa: PLC0415 - an optional extra

        with self._lock:
            # A child process must not write into the connections of its parent.
            if self._client is None or self._process != os.getpid():
                self._process = os.getpid()
                self._client = httpx.Client(
                    headers={"Accept-Encoding": "identity", **self._expand()},  # a small reply cannot become a huge one
                    timeout=httpx.Timeout(self._timeout, connect=self._connect_timeout, pool=None),
                    limits=httpx.Limits(max_connections=self._connections),
                    follow_redirects=False,
                )
                end_requests_of(self._client)
            return self._client

    def _read(self, response: Any, address: str) -> Reply:
        status, headers = response.status_code, response.headers
        content = self._content(response, address)
        if 200 <= status < 300:
            return Reply(content, headers)
        said = self._clean(_excerpt(content, headers.get("content-type", "")))
        if status in LATER_STATUSES:
            raise RetryLater(retry_after(headers), f"{address}: status {status}{said}")
        if 300 <= status < 400:
            where = self._clean(" ".join(headers.get("location", "nowhere").split())[:200])
            raise ClassifierError(
                f"{address}: the server redirects to {where}; redirects are not followed, since headers may hold "
                "secrets; give the final address"
            )
        hint = {
            401: "; does the request need a header, such as Authorization?",
            403: "; does the request need a header, such as Authorization?",
            404: "; is the address right?",
            405: "; is the address right?",
        }.get(status, "")
        raise ClassifierError(f"{address}: status {status}{said}{hint}")

    def _content(self, response: Any, address: str) -> bytes:
        coding = response.headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            raise ClassifierError(f"{address}: the reply is compressed ({coding[:40]}), which was not asked for")
        parts, size = [], 0
        try:
            for part in response.iter_raw():
                parts.append(part)
                size += len(part)
                if size > self._most_bytes:
                    raise ClassifierError(f"{address}: the reply has more than {self._most_bytes} bytes")
        except _httpx().RemoteProtocolError as error:
            raise ClassifierError(self._clean(f"{address}: the reply was cut off: {error}")) from None
        return b"".join(parts)

    def _expand(self) -> dict[str, str]:
        found = {name: _expanded(value, f"the header {name}") for name, value in self._headers.items()}
        for name, value in found.items():
            if not value.isprintable() or not value.isascii():
                raise ConfigError(f"the value of the header {name} has characters that no header can have")
        return found

    def _clean(self, message: str) -> str:
        """Without what comes from the environment."""
        for text in (self._address, *self._headers.values()):
            for variable in string.Template(text).get_identifiers():
                secret = os.environ.get(variable, "")
                if len(secret) >= 4:
                    message = message.replace(secret, f"${variable}")
        return " ".join(message.split())


def parsed_json(content: bytes) -> Any:
    """The value in a reply. Raises ClassifierOutputError with its start if it is not JSON."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        start = " ".join(content[:100].decode(errors="replace").split())
        raise ClassifierOutputError(f"expected JSON, got {start!r}") from None


def _way_out(error: str) -> str:
    """What a failed connection may be due to, besides the server."""
    if "CERTIFICATE_VERIFY_FAILED" in error:
        return "; if the certificate is one of your own, name its file in SSL_CERT_FILE"
    return "; the environment names a proxy: is it right?" if set(getproxies_environment()) - {"no"} else ""


def _shown(address: str) -> str:
    """An address without a name and password."""
    return re.sub(r"//[^/?#]*@", "//...@", address)[:300]


def _expanded(text: str, what: str) -> str:
    """``$NAME`` and ``${NAME}`` replaced by variables of the environment; ``$$`` is a dollar."""
    if "$" not in text:
        return text
    try:
        return string.Template(text).substitute(os.environ)
    except KeyError as error:
        raise ConfigError(f"{what} needs the variable {error.args[0]}, which the environment does not have") from None
    except ValueError:
        raise ConfigError(f"{what} has a $ that no name follows; write $$ for a dollar") from None


def _excerpt(content: bytes, kind: str) -> str:
    """The start of what a server says about an error."""
    if "html" in kind.lower() or content.lstrip()[:1] == b"<":
        title = re.search(rb"<title[^>]*>([^<]{1,200})", content, re.IGNORECASE)
        return f": a page, {_plain(title[1])!r}" if title else ": a page"
    return f": {_plain(content[:600])[:300]}" if content.strip() else ""


def _plain(content: bytes) -> str:
    text = content.decode(errors="replace")
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def _httpx() -> Any:
    try:
        import httpx  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise MissingDependencyError("httpx", "http") from error
    return httpx
