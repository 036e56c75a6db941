"""What says "later", and how long to wait for it."""

import pickle
import urllib.error
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime

import httpx
import pytest

from maskrestore.classifiers.retrying import Waits, asks_for_later, retry_after
from maskrestore.errors import ConfigError, RetryLater

REQUEST = httpx.Request("POST", "http://host")


def response(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers=headers, request=REQUEST)


def from_urllib(status: int, after: str) -> urllib.error.HTTPError:
    headers = Message()
    headers["Retry-After"] = after
    return urllib.error.HTTPError("http://host", status, "busy", headers, None)


def wrapped(cause: Exception) -> Exception:
    """As ``raise RuntimeError(...) from cause``."""
    error = RuntimeError("the API failed")
    error.__cause__ = cause
    return error


def boto(status: int, after: str) -> Exception:
    error = RuntimeError("ThrottlingException")
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": {"retry-after": after}}
    error.response = {"Error": {"Code": "ThrottlingException"}, "ResponseMetadata": metadata}  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (RetryLater(7), 7),
        (TimeoutError(), None),
        (ConnectionRefusedError(), None),
        (httpx.ReadTimeout("slow"), None),
        (httpx.ConnectError("refused"), None),
        (httpx.HTTPStatusError("429", request=REQUEST, response=response(429, **{"Retry-After": "12"})), 12),
        (httpx.HTTPStatusError("503", request=REQUEST, response=response(503)), None),
        (from_urllib(429, "3"), 3),
        (urllib.error.URLError(ConnectionRefusedError("refused")), None),
        (wrapped(from_urllib(429, "3")), 3),
        (wrapped(RetryLater(7)), 7),
        (boto(429, "4"), 4),
    ],
)
def test_these_say_later(error, seconds):
    later = asks_for_later(error)
    assert later is not None
    assert later.seconds == seconds


@pytest.mark.parametrize(
    "error",
    [
        ValueError("429"),
        OSError("no room"),
        httpx.HTTPStatusError("500", request=REQUEST, response=response(500)),
        httpx.HTTPStatusError("401", request=REQUEST, response=response(401)),
        from_urllib(404, "3"),
        urllib.error.URLError("unknown url type: ftps"),
        urllib.error.URLError(OSError("name or service not known")),
        wrapped(from_urllib(404, "3")),
        boto(400, "4"),
        httpx.InvalidURL("x"),
    ],
)
def test_these_do_not(error):
    assert asks_for_later(error) is None


def test_retry_after_holds_a_number_or_a_date():
    assert retry_after({"Retry-After": "1.5"}) == 1.5
    assert retry_after({"Retry-After": "-3"}) == 0
    assert retry_after(httpx.Headers({"retry-after": "120"})) == 120
    soon = datetime.now(UTC) + timedelta(seconds=50)
    assert 45 < retry_after({"Retry-After": format_datetime(soon, usegmt=True)}) <= 50
    assert retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 -0000"}) == 0
    for text in ("nan", "inf", "soon", "", "Wed, 99 Oct"):
        assert retry_after({"Retry-After": text}) is None
    assert retry_after({}) is None
    assert retry_after(None) is None


def test_the_error_survives_a_process_boundary():
    again = pickle.loads(pickle.dumps(RetryLater(5, "busy")))
    assert (again.seconds, str(again)) == (5, "busy")
    assert str(RetryLater()) == "ask again later"


def test_the_longest_wait_is_a_number():
    for wrong in (-1, float("nan")):
        with pytest.raises(ConfigError, match="0 seconds or more"):
            Waits(wrong)
    assert Waits(0).seconds(RetryLater()) is None
