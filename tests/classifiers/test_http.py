"""Classifiers behind an address: what is sent, what is read, and every fault that a server can have."""

import base64
import io
import json
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

from fakes import MeanRestorer, colour_labels, plain_images
from faulty_server import (
    Server,
    binary_reply,
    bomb,
    cut_off,
    drips,
    drips_headers,
    endless,
    hangs_up,
    no_http,
    output,
    says,
    says_json,
    slow,
    texts,
)
from maskrestore import BDMAE, StreamItem
from maskrestore.classifiers import as_classifier
from maskrestore.classifiers.http import HttpClassifier
from maskrestore.classifiers.http_transport import Unanswered, _way_out
from maskrestore.defense.asking import Asking
from maskrestore.defense.oracle import Budget
from maskrestore.errors import (
    ClassifierError,
    ClassifierOutputError,
    ConfigError,
    InvalidImageError,
    QueryBudgetError,
    RetryLater,
)

PICTURES = plain_images(20, size=8)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr("maskrestore.classifiers.retrying.time.sleep", found.append)
    return found


def first_error(classifier: HttpClassifier) -> Exception:
    """What it says about one picture."""
    ((_, error),) = classifier.answers([PICTURES[:1]])
    assert isinstance(error, Exception)
    return error


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("datatype", ["FP32", "FP16", "UINT8"])
def test_pictures_arrive_and_labels_come_back_in_order(server: Server, binary: bool, datatype: str) -> None:
    server.extensions = ["binary_tensor_data"] if binary else []
    server.metadata["inputs"][0]["datatype"] = datatype
    if datatype == "UINT8":
        plain = server.answer
        server.answer = lambda values: plain(values / 255)
    with HttpClassifier(server.address, concurrency=4) as classifier:
        assert torch.equal(classifier(PICTURES), colour_labels(PICTURES))
    assert server.asked == classifier.sent == 20
    assert ("Inference-Header-Content-Length" in server.headers[0]) is binary
    assert server.most_busy <= 4
    assert len(server.connections) <= 4  # they are used again


def test_whole_numbers_need_a_range(server: Server) -> None:
    server.metadata["inputs"][0]["datatype"] = "INT32"
    with pytest.raises(ConfigError, match="whole numbers; say which ones black and white are"):
        HttpClassifier(server.address)
    plain = server.answer
    server.answer = lambda values: plain(values / 255)
    with HttpClassifier(server.address, pixel_range=(0, 255)) as classifier:
        assert torch.equal(classifier(PICTURES), colour_labels(PICTURES))


def test_requests_fly_at_the_same_time(server: Server) -> None:
    server.faults = [slow(0.05)]
    with HttpClassifier(server.address, concurrency=5) as classifier:
        classifier(PICTURES)
    assert 2 <= server.most_busy <= 5


def test_float32_arrives_bit_for_bit(server: Server) -> None:
    seen: list[np.ndarray] = []
    plain = server.answer
    server.answer = lambda values: (seen.append(values), plain(values))[1]
    for binary in (False, True):
        with HttpClassifier(server.address, binary=binary) as classifier:
            classifier(PICTURES[:1])
    for values in seen:
        assert np.array_equal(values, PICTURES[:1].numpy())


def test_images_are_prepared_as_the_server_says_and_as_one_wishes(server: Server) -> None:
    seen: list[np.ndarray] = []
    server.answer = lambda values: (seen.append(values), output("INT64", [1], [5]))[1]
    server.metadata["inputs"][0]["shape"] = [2, 12, 10, 3]
    server.metadata["outputs"] = [{"name": "scores", "datatype": "INT64", "shape": [-1]}]
    server.answer = lambda values: (seen.append(values), output("INT64", [2], [5, 5]))[1]
    with HttpClassifier(server.address, mean=0.5, std=0.5) as classifier:
        assert classifier(PICTURES[:1]).tolist() == [5]
    (values,) = seen
    assert values.shape == (2, 12, 10, 3)  # a batch size that is baked in is filled
    assert classifier.input_size == (12, 10)
    assert values.min() < 0
    with pytest.raises(InvalidImageError, match="takes 3 channels, got a picture with 1"):
        classifier(torch.rand(1, 1, 8, 8))


def test_an_ambiguous_output_must_be_named(server: Server) -> None:
    server.metadata["outputs"].append({"name": "more", "datatype": "FP32", "shape": [-1, 5]})
    with pytest.raises(ConfigError, match=r"output=NAME \(--output NAME\)"):
        HttpClassifier(server.address)
    with pytest.raises(ConfigError, match="no output 'other'"):
        HttpClassifier(server.address, output="other")
    with HttpClassifier(server.address, output="scores") as classifier:
        assert torch.equal(classifier(PICTURES), colour_labels(PICTURES))
    assert [one["name"] for one in json.loads(server.bodies[0])["outputs"]] == ["scores"]


def test_a_server_that_describes_nothing_is_sent_the_usual_form(server: Server) -> None:
    server.metadata = {"name": "colours"}
    with HttpClassifier(server.address) as classifier:
        assert torch.equal(classifier(PICTURES), colour_labels(PICTURES))
        assert classifier.notes
        both = output("FP32", [1, 2], [0, 1])["outputs"] + output("FP32", [1, 3], [0, 0, 1], "b")["outputs"]
        server.faults = [says_json({"outputs": both})]
        assert "name the one" in str(first_error(classifier))


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (cut_off, ClassifierError, "cut off"),
        (hangs_up, Unanswered, "no answer"),
        (no_http, Unanswered, "no answer"),
        (bomb, ClassifierError, "compressed"),
        (endless, ClassifierError, "more than 65536 bytes"),
        (drips, Unanswered, "longer than 0.5 s"),
        (drips_headers, Unanswered, "longer than 0.5 s"),
        (slow(2), Unanswered, "no answer"),
        (says(500, b'{"error": "out of\nmemory"}'), ClassifierError, "status 500.*out of memory"),
        (says(500, b"<html><title>Oops &amp; co</title>", "text/html"), ClassifierError, "a page, 'Oops"),
        (says(200, b"<html><title>Log in</title>", "text/html"), ClassifierOutputError, "expected JSON, got '<html>"),
        (says(401, b"no"), ClassifierError, "status 401: no; does the request need a header"),
        (says(404), ClassifierError, "is the address right"),
        (says(429, Retry_After="7"), RetryLater, "status 429"),
        (says(503), RetryLater, "status 503"),
        (says(302, Location="http://elsewhere/"), ClassifierError, "redirects to http://elsewhere/"),
        (says(200, b""), ClassifierOutputError, "expected JSON"),
        (says(200, b"[" * 20000), ClassifierOutputError, "expected JSON"),
        (says_json([1, 2]), ClassifierOutputError, "expected a reply with a list of outputs, got a list"),
        (says_json({"error": "no such thing"}), ClassifierError, "an error: no such thing"),
        (says_json(output("FP32", [1, 8], [0.0] * 7)), ClassifierOutputError, "holds 7 values"),
        (says_json(output("FP32", [1, 8], [0.0] * 7 + [None])), ClassifierOutputError, "holds 'None'"),
        (says_json(output("FP32", [1, 8], [float("nan")] * 8)), ClassifierOutputError, "NaN"),
        (says_json(output("FP32", [1, 2], ["a", "b"])), ClassifierOutputError, "holds 'a'"),
        (says_json(output("FP32", [1, -2], [0.0, 1.0])), ClassifierOutputError, "list of lengths"),
        (says_json(output("FP32", [2, 2], [0.0] * 4)), ClassifierOutputError, "for 1 images"),
        (says_json(output("FP32", [1, 2, 2], [0.0] * 4)), ClassifierOutputError, "for 1 images"),
        (says_json(output("INT64", [1, 5], [1, 2, 3, 4, 5])), ClassifierOutputError, "integers in rows are no scores"),
        (says_json(output("INT64", [1], [2**70])), ClassifierOutputError, "do not fit"),
        (says_json(output("FP32", [1], [0.7])), ClassifierOutputError, "threshold"),
        (says_json(output("FP99", [1], [0.7])), ClassifierOutputError, "expected one of BOOL"),
        (says_json(output("FP32", [1, 8], [0.0] * 8, "other")), ClassifierOutputError, "expected the output 'scores'"),
        (says_json(output("BYTES", [1], ["a" * 10_000])), ClassifierOutputError, "a text of 10000 characters"),
        (says_json(output("BYTES", [2], ["a", "b"])), ClassifierOutputError, "name of one class, got 2 texts"),
        (binary_reply([("scores", "FP32", [1, 2], b"1234567")]), ClassifierOutputError, "in 7 bytes"),
        (binary_reply([("scores", "FP32", [1, 2], b"12345678")], 10**6), ClassifierOutputError, "1000000"),
        (binary_reply([("scores", "BYTES", [1], b"\xff\xff\xff\xffab")]), ClassifierOutputError, "cut off"),
        (binary_reply([("scores", "BYTES", [1], b"\x02")]), ClassifierOutputError, "cut off"),
    ],
)
def test_every_fault_is_an_error_in_clear_words(server: Server, fault, kind, message) -> None:
    with HttpClassifier(server.address, timeout=0.5, most_bytes=2**16, concurrency=2) as classifier:
        server.faults = [fault]
        error = first_error(classifier)
        assert isinstance(error, kind), error
        assert re.search(message, str(error)), error
        assert len(str(error)) < 600
        server.faults = []
        assert torch.equal(classifier(PICTURES), colour_labels(PICTURES))  # it works again


def test_a_redirect_loop_is_not_followed(server: Server) -> None:
    with HttpClassifier(server.address) as classifier:
        server.faults = [says(307, Location=f"{server.address}/infer")]
        assert "redirects are not followed" in str(first_error(classifier))
    assert server.asked == 1


def test_binary_questions_are_those_of_tritonclient(server: Server) -> None:
    """The bytes that ``tritonclient.http`` 2.73 makes of the same question."""
    picture = torch.arange(12, dtype=torch.float32).reshape(1, 3, 2, 2) / 16
    with HttpClassifier(server.address, binary=True) as classifier:
        classifier(picture)
    header = (
        b'{"inputs":[{"name":"image","shape":[1,3,2,2],"datatype":"FP32","parameters":{"binary_data_size":48}}],'
        b'"outputs":[{"name":"scores","parameters":{"binary_data":true}}]}'
    )
    assert server.bodies == [header + picture.numpy().tobytes()]
    assert server.headers[0]["Inference-Header-Content-Length"] == str(len(header)) == "166"


def test_binary_answers_are_read_as_the_extension_writes_them(server: Server) -> None:
    """Written by hand after the specification: tensors in row-major order, little endian, one after another."""
    server.metadata["outputs"] = []
    raw = np.array([[0.1, 0.9, 0.3]], "<f2").tobytes()
    with HttpClassifier(server.address, output="b", binary=True) as classifier:
        server.faults = [binary_reply([("a", "INT32", [1], b"\7\0\0\0"), ("b", "FP16", [1, 3], raw)])]
        assert classifier(PICTURES[:1]).tolist() == [1]
    with HttpClassifier(server.address, binary=True) as classifier:
        server.faults = [binary_reply([("names", "BYTES", [1, 1], texts("Möwe"))])]
        assert classifier(PICTURES[:1]).tolist() == [0]
        assert classifier.classes == ("Möwe",)
        server.faults = [binary_reply([("a", "BOOL", [1], b"\1")])]
        assert classifier(PICTURES[:1]).tolist() == [1]


def test_names_are_numbered_as_they_come_and_mean_the_same_later(server: Server, tmp_path) -> None:
    server.metadata["outputs"] = [{"name": "scores", "datatype": "BYTES", "shape": [-1, 1]}]
    first = [says_json(output("BYTES", [1, 1], [name])) for name in ("dog", "cat", "dog")]
    with HttpClassifier(server.address, concurrency=1) as classifier:
        classifier.keep_classes(tmp_path / "classes.json")
        server.faults = [*first]
        assert classifier(PICTURES[:3]).tolist() == [0, 1, 0]
    again = HttpClassifier(server.address, concurrency=1)
    again.keep_classes(tmp_path / "classes.json")
    server.faults = [says_json(output("BYTES", [1, 1], [name])) for name in ("bird", "cat")]
    assert again(PICTURES[:2]).tolist() == [2, 1]
    assert json.loads((tmp_path / "classes.json").read_text()) == ["dog", "cat", "bird"]
    listed = HttpClassifier(server.address, classes=["cat", "dog"])
    server.faults = [says_json(output("BYTES", [1, 1], ["dog"]))]
    assert listed(PICTURES[:1]).tolist() == [1]
    server.faults = [says_json(output("BYTES", [1, 1], ["cow"]))]
    assert "none of its 2 classes: cat, dog" in str(first_error(listed))
    (tmp_path / "classes.json").write_text("[1")
    with pytest.raises(ConfigError, match="cannot be read"):
        HttpClassifier(server.address).keep_classes(tmp_path / "classes.json")


def test_names_have_the_same_number_for_all_who_share_their_file(server: Server, tmp_path) -> None:
    server.metadata["outputs"] = [{"name": "scores", "datatype": "BYTES", "shape": [-1, 1]}]
    with (
        HttpClassifier(server.address, concurrency=1) as first,
        HttpClassifier(server.address, concurrency=1) as second,
    ):
        for one in (first, second):
            one.keep_classes(tmp_path / "classes.json", shared=True)
        for one, name, number in (
            (first, "dog", 0), (second, "cat", 1), (first, "cat", 1), (second, "cow", 2), (second, "dog", 0),
        ):  # fmt: skip
            server.faults = [says_json(output("BYTES", [1, 1], [name]))]
            assert one(PICTURES[:1]).tolist() == [number], name
    assert json.loads((tmp_path / "classes.json").read_text()) == ["dog", "cat", "cow"]


@pytest.mark.parametrize("metadata", [None, [], "text", {"inputs": 5}, {"inputs": [{"name": "a"}]}, {"inputs": [1]}])
def test_metadata_of_another_form_are_refused(server: Server, metadata) -> None:
    server.metadata = metadata
    with pytest.raises(ClassifierError, match=r"404|metadata|expected inputs"):
        HttpClassifier(server.address)


def test_a_server_that_is_not_there_is_an_error_at_once(server: Server, waits: list[float]) -> None:
    free = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(ClassifierError, match="no connection"):
        HttpClassifier(free)
    assert not waits


def test_a_connection_that_fails_names_what_may_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "elsewhere")
    with pytest.raises(ClassifierError, match=r"no connection: [^;]*$"):
        HttpClassifier("http://127.0.0.1:9/v2/models/signs")
    monkeypatch.setenv("http_proxy", "http://name:secret@127.0.0.1:9")
    with pytest.raises(ClassifierError, match=r"^http://127.*names a proxy: is it right\?$") as raised:
        HttpClassifier("http://127.0.0.1:9/v2/models/signs")
    assert "secret" not in str(raised.value)
    assert "SSL_CERT_FILE" in _way_out("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")


def test_a_request_to_wait_is_followed(server: Server, waits: list[float]) -> None:
    server.faults = [None, says(429, Retry_After="12"), says(503), None]
    with HttpClassifier(server.address, concurrency=1) as classifier:
        assert torch.equal(classifier(PICTURES), colour_labels(PICTURES))
    assert waits[0] == 12
    assert server.asked == 22


def test_what_may_have_been_charged_for_is_only_sent_again_within_a_budget(server: Server, waits: list[float]) -> None:
    server.faults = [hangs_up, None]
    with HttpClassifier(server.address) as classifier, pytest.raises(Unanswered):
        classifier(PICTURES[:1])
    server.faults = [hangs_up, None]
    with HttpClassifier(server.address, budget=3) as classifier:
        assert torch.equal(classifier(PICTURES[:1]), colour_labels(PICTURES[:1]))
        assert classifier.sent == 2
        with pytest.raises(QueryBudgetError, match="budget of 3 requests is spent"):
            classifier(PICTURES[:3])
    assert len(waits) == 1


def test_secrets_stay_secret(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret-token")
    classifier = HttpClassifier(server.address, headers={"Authorization": "Bearer $TOKEN", "X-Price": "5$$"})
    classifier(PICTURES[:1])
    assert server.headers[0]["Authorization"] == "Bearer s3cret-token"
    assert server.headers[0]["X-Price"] == "5$"
    server.faults = [says(403, b"bad token s3cret-token")]
    assert "bad token $TOKEN" in str(first_error(classifier))
    assert b"s3cret" not in pickle.dumps(classifier)
    assert "s3cret" not in repr(vars(classifier)) + repr(vars(classifier._transport)["_headers"])
    classifier.close()
    with pytest.raises(ConfigError, match="Authorization needs the variable MISSING"):
        HttpClassifier(server.address, headers={"Authorization": "$MISSING"})
    with pytest.raises(ConfigError, match=r"write \$\$"):
        HttpClassifier(server.address, headers={"A": "5$"})
    with pytest.raises(ConfigError, match="name of a header"):
        HttpClassifier(server.address, headers={"A:B\r\n": "5"})
    monkeypatch.setenv("TOKEN", "a\r\nHost: b")
    with pytest.raises(ConfigError, match="characters that no header can have"):
        HttpClassifier(server.address, headers={"A": "$TOKEN"})
    with pytest.raises(ConfigError, match="without a name or password") as caught:
        HttpClassifier("https://me:hush@host/v2/models/x")
    assert "hush" not in str(caught.value)


def test_it_survives_pickling(server: Server) -> None:
    with HttpClassifier(server.address) as classifier:
        classifier(PICTURES[:2])
        again = pickle.loads(pickle.dumps(classifier))
    with again:
        assert torch.equal(again(PICTURES), colour_labels(PICTURES))
    assert torch.equal(classifier(PICTURES), colour_labels(PICTURES))  # a closed one opens again
    assert as_classifier(classifier) is classifier


def image_in(content: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content)))).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("body", "read"),
    [
        ("png", lambda content: content),
        ("jpeg", lambda content: content),
        ('{"image": "{image_base64}", "top": 1}', lambda content: base64.b64decode(json.loads(content)["image"])),
        (
            '{"image": "data:image/jpeg;base64,{jpeg_base64}"}',
            lambda content: base64.b64decode(json.loads(content)["image"].partition(",")[2]),
        ),
    ],
)
def test_other_endpoints_get_an_image_file(server: Server, body: str, read) -> None:
    server.faults = [says_json({"predictions": [{"label": "cat"}]})]
    picture = plain_images(1, size=16)
    with HttpClassifier(f"{server.host}/classify", body=body, label="predictions[0].label") as classifier:
        assert classifier(picture).tolist() == [0]
        assert classifier.classes == ("cat",)
    found = image_in(read(server.bodies[0])).float() / 255
    assert (found - picture[0]).abs().mean() < (0.002 if "jpeg" not in body else 0.05)
    assert server.headers[0]["Content-Type"] == (f"image/{body}" if len(body) < 5 else "application/json")


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (3, 3),
        (True, 1),
        ("cat", 0),
        ([0.1, 0.2, 0.7], 2),
        ([0, 1, 0.5], 1),
        ({"dog": 0.7, "cat": 0.3}, 1),  # names of maps are sorted
        ([5.0, float("nan")], "NaN"),
        (0.7, "threshold"),
        (None, "there is nothing at 'a'"),
        ([], "expected"),
        ([[1, 2], [3]], "expected"),
        ({}, "expected"),
        ({"a": "b"}, "expected|parts"),
        ("a" * 10_000, "a text of 10000 characters"),
        (" ", "a text of 1 characters"),
        (2**80, "expected"),
    ],
)
def test_the_label_is_found_in_any_reply(server: Server, value, label) -> None:
    server.faults = [says_json({"a": value})]
    with HttpClassifier(f"{server.host}/classify", body="png", label="a") as classifier:
        if isinstance(label, int):
            assert classifier(PICTURES[:1]).tolist() == [label]
        else:
            error = first_error(classifier)
            assert isinstance(error, ClassifierError), error
            assert re.search(label, str(error)), error


def test_wrong_descriptions_are_refused(server: Server) -> None:
    for settings, message in (
        ({}, "no address of the Open Inference Protocol.*--body, --label"),
        ({"body": "png"}, "--label"),
        ({"body": "gif", "label": "a"}, "expected a body of png"),
        ({"body": "{image_base64}", "label": "a"}, "is not JSON"),
        ({"body": "png", "label": "a[["}, "no JMESPath"),
        ({"body": "png", "label": "a", "mean": 0.5}, "mean: for addresses of the Open Inference Protocol"),
        ({"body": "png", "label": "a", "concurrency": 0}, "concurrency must be at least 1"),
        ({"body": "png", "label": "a", "timeout": 0}, "timeout must be"),
        ({"body": "png", "label": "a", "timeout": float("nan")}, "timeout must be"),
        ({"body": "png", "label": "a", "budget": -1}, "budget must be"),
        ({"body": "png", "label": "a", "classes": ["a", "a"]}, "more than once|repetitions"),
    ):
        with pytest.raises(ConfigError, match=message):
            HttpClassifier(f"{server.host}/classify", **settings)
    for address in ("ftp://host/x", "host/v2/models/a", "https://", "https://a b/c"):
        with pytest.raises(ConfigError, match="expected an address"):
            HttpClassifier(address, body="png", label="a")


def test_a_whole_defense_asks_through_it(server: Server, waits: list[float]) -> None:
    """Faults in the middle: what was answered is kept, and results are those of a local classifier."""
    images = plain_images(4)
    defense = BDMAE(MeanRestorer(), "default")
    expected = [defense.purify(image, colour_labels) for image in images]
    server.faults = [None, None, says(429, Retry_After="3"), None, hangs_up, says(503), *[None] * 20, says(500), None]
    budget, notes = Budget(), []
    stream = [StreamItem(id=number, image=image) for number, image in enumerate(images)]
    with HttpClassifier(server.address, concurrency=3) as classifier:
        found = list(defense.purify_stream(stream, classifier, budget=budget, asking=Asking(told=notes.append)))
    assert sum(one.error is not None for one in found) == 1  # the status 500
    for one, other in zip(found, expected, strict=True):
        if one.result is not None:
            assert torch.equal(one.result.images, other.images)
            assert torch.equal(one.result.queries, other.queries)
    assert budget.spent == server.asked
    assert 1 <= len(waits) <= 3
    assert 3 in waits
    assert len(notes) >= budget.spent  # a sign of life for each query
