import base64
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fakes import MeanRestorer, colour_labels, plain_images
from faulty_server import Server, output, says_json
from gateway_runner import KEY, Running
from maskrestore import BDMAE
from maskrestore.classifiers.open_inference_messages import BINARY_HEADER, read_message, write_message

Start = Callable[..., Running]
INFER = "/v2/models/colours/infer"


def question(images: Any, datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    values = np.asarray(images)
    entry = {"name": "image", "datatype": datatype, "shape": list(values.shape), "data": values.ravel().tolist()}
    return {"inputs": [entry], **more}


def rows(answer: dict[str, Any]) -> np.ndarray:
    (one,) = answer["outputs"]
    return np.array(one["data"]).reshape(one["shape"])


def png(image: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.mul(255).round().byte().permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def test_the_server_and_its_model_describe_themselves(gateway: Start) -> None:
    client = gateway().client
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 200
    assert client.get("/v2/models/colours/ready").status_code == 200
    found = client.get("/v2/models/colours").json()
    assert found["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 3, -1, -1]}]
    assert found["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 8]}]
    assert found["parameters"]["scores"] == "one-hot"
    assert client.get("/v2/models/others").status_code == 404
    assert "known: colours" in client.get("/v2/models/others").json()["error"]


def test_json_in_json_out(gateway: Start) -> None:
    images = plain_images(3)
    answer = gateway().client.post(INFER, json=question(images, id="7"))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["id"], body["model_name"]) == ("7", "colours")
    assert rows(body).argmax(axis=1).tolist() == colour_labels(images).tolist()
    assert (rows(body).sum(axis=1) == 1).all()
    assert answer.headers["Maskrestore-Shielded"] == "true"
    assert len(body["parameters"]["maskrestore_decisions"].split()) == 3


def test_bytes_in_bytes_out_as_tritonclient_sends_by_default(gateway: Start) -> None:
    images = plain_images(2).numpy()
    content, headers = write_message(
        {"parameters": {"binary_data_output": True}}, "inputs", [("image", "FP32", images, True)]
    )
    answer = gateway().client.post(INFER, content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    _, tensors = read_message(answer.content, answer.headers[BINARY_HEADER], "outputs")
    assert tensors["scores"].raw is not None
    assert tensors["scores"].values().argmax(axis=1).tolist() == colour_labels(torch.from_numpy(images)).tolist()


def test_an_output_can_be_asked_for_in_bytes_or_json(gateway: Start) -> None:
    client, images = gateway().client, plain_images(1)
    asked = question(images, outputs=[{"name": "scores", "parameters": {"binary_data": True}}])
    assert BINARY_HEADER in client.post(INFER, json=asked).headers
    asked = question(images, outputs=[{"name": "scores"}])
    assert BINARY_HEADER not in client.post(INFER, json=asked).headers


def test_image_files_in_a_tensor_of_bytes(gateway: Start) -> None:
    client, images = gateway().client, plain_images(2)
    files = [png(one) for one in images]
    labels = colour_labels(images).tolist()
    entry = {"name": "image", "datatype": "BYTES", "shape": [2]}
    in_json = {"inputs": [{**entry, "data": [base64.b64encode(one).decode() for one in files]}]}
    assert rows(client.post(INFER, json=in_json).json()).argmax(axis=1).tolist() == labels
    content, headers = write_message({}, "inputs", [("image", "BYTES", np.array(files, dtype=object), True)])
    assert rows(client.post(INFER, content=content, headers=headers).json()).argmax(axis=1).tolist() == labels


@pytest.mark.parametrize("layout", ["chw", "hwc"])
def test_what_clients_did_to_their_pixels_is_undone_and_done_again(server: Server, gateway: Start, layout: str) -> None:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    if layout == "hwc":
        server.metadata["inputs"][0]["shape"] = [-1, 16, 16, 3]
    seen: list[np.ndarray] = []

    def answer(values: np.ndarray) -> dict[str, Any]:
        seen.append(values)
        shown = values if layout == "hwc" else values.transpose(0, 2, 3, 1)
        labels = ((shown * std + mean).mean(axis=(1, 2)) > 0.5) @ np.array([1, 2, 4])
        return output("FP32", [len(labels), 8], np.eye(8)[labels].ravel().tolist())

    server.answer = answer
    pixels = (plain_images(1) * 255).round() / 255
    normalised = ((pixels.permute(0, 2, 3, 1).numpy() - mean) / std).astype(np.float32)
    sent = normalised if layout == "hwc" else normalised.transpose(0, 3, 1, 2)
    running = gateway({"mean": mean.tolist(), "std": std.tolist(), "layout": layout})
    found = running.client.post(INFER, json=question(sent))
    assert found.status_code == 200, found.text
    assert rows(found.json()).argmax() == colour_labels(pixels)
    assert np.allclose(seen[0], sent, atol=1e-6)
    # The same picture as an image file is the same picture, bit for bit.
    as_file = running.client.post("/v1/purify", content=png(pixels[0])).json()["decision"]
    first = running.client.get("/v1/decisions").json()["decisions"][-1]
    assert as_file["content"] == first["content"]


def test_labels_and_decisions_are_those_of_the_library(gateway: Start) -> None:
    images = plain_images(4, seed=3)
    running = gateway()
    body = running.client.post(INFER, json=question(images)).json()
    expected = BDMAE(MeanRestorer(), "fast", key=KEY).purify(images, colour_labels)
    assert rows(body).argmax(axis=1).tolist() == expected.labels.tolist()
    decisions = running.client.get("/v1/decisions").json()["decisions"][::-1]
    assert [one["queries"] for one in decisions] == expected.queries.tolist()


def test_models_that_answer_with_labels_names_or_one_score(server: Server, gateway: Start) -> None:
    images = plain_images(2)
    declared = server.metadata["outputs"][0]
    declared.update(datatype="INT64", shape=[-1, 1])
    server.answer = lambda values: output("INT64", [1, 1], colour_labels(torch.from_numpy(values)).tolist())
    found = gateway().client.post(INFER, json=question(images)).json()["outputs"][0]
    assert (found["datatype"], found["shape"]) == ("INT64", [2, 1])
    assert found["data"] == colour_labels(images).tolist()

    declared.update(datatype="BYTES", shape=[-1])
    server.answer = lambda values: output("BYTES", [1], [f"colour {int(colour_labels(torch.from_numpy(values)))}"])
    running = gateway()
    found = running.client.post(INFER, json=question(images)).json()["outputs"][0]
    assert found["data"] == [f"colour {label}" for label in colour_labels(images).tolist()]
    assert running.client.get("/v1/decisions").json()["decisions"][0]["label_name"].startswith("colour ")

    declared.update(datatype="FP32", shape=[-1, 1])
    server.answer = lambda values: output("FP32", [1, 1], [float(values.mean())])
    found = gateway({"threshold": 0.5}).client.post(INFER, json=question(images)).json()["outputs"][0]
    assert found["data"] == (images.mean(dim=(1, 2, 3)) > 0.5).float().tolist()


def test_scores_of_the_upstream_itself(server: Server, gateway: Start) -> None:
    server.metadata["outputs"].append({"name": "energy", "datatype": "FP32", "shape": [-1]})

    def answer(values: np.ndarray) -> dict[str, Any]:
        label = int(colour_labels(torch.from_numpy(values)))
        more = {"name": "energy", "datatype": "FP32", "shape": [1], "data": [float(values.sum())]}
        scores = output("FP32", [1, 8], [0.9 if one == label else 0.1 for one in range(8)])
        return {**scores, "outputs": [*scores["outputs"], more]}

    server.answer = answer
    images = plain_images(2)
    running = gateway({"scores": "upstream", "output": "scores"})
    assert running.client.get("/v2/models/colours").json()["outputs"] == server.metadata["outputs"]
    before = server.asked
    body = running.client.post(INFER, json=question(images)).json()
    scores, energy = body["outputs"]
    assert np.array(scores["data"]).reshape(2, 8).argmax(axis=1).tolist() == colour_labels(images).tolist()
    assert energy["shape"] == [2]
    decisions = running.client.get("/v1/decisions").json()["decisions"]
    assert sum(one["queries"] for one in decisions) == server.asked - before
    asked = question(images, outputs=[{"name": "energy"}])
    assert [one["name"] for one in running.client.post(INFER, json=asked).json()["outputs"]] == ["energy"]
    asked = question(images, outputs=[{"name": "nothing"}])
    assert running.client.post(INFER, json=asked).status_code == 400


def changed(**fields: Any) -> bytes:
    body = question(plain_images(1))
    body["inputs"][0].update(fields)
    return json.dumps(body).encode()


HOSTILE: dict[str, tuple[bytes, dict[str, str], int]] = {
    "nothing": (b"", {}, 400),
    "no JSON": (b"{", {}, 400),
    "deep JSON": (b"[" * 10_000, {}, 400),
    "a list": (b"[]", {}, 400),
    "no inputs": (b"{}", {}, 400),
    "inputs that are no list": (b'{"inputs": {}}', {}, 400),
    "inputs of numbers": (b'{"inputs": [1]}', {}, 400),
    "another input": (changed(name="other"), {}, 400),
    "a further input": (
        json.dumps({"inputs": [*question(plain_images(1))["inputs"], {"name": "b"}]}).encode(), {}, 400,
    ),
    "the input twice": (json.dumps({"inputs": question(plain_images(1))["inputs"] * 2}).encode(), {}, 400),
    "a further field": (json.dumps(question(plain_images(1), model="x")).encode(), {}, 400),
    "an unknown parameter": (json.dumps(question(plain_images(1), parameters={"sequence_id": 1})).encode(), {}, 400),
    "parameters in a list": (json.dumps(question(plain_images(1), parameters=[1])).encode(), {}, 400),
    "an id that is a number": (json.dumps(question(plain_images(1), id=1)).encode(), {}, 400),
    "a negative timeout": (json.dumps(question(plain_images(1), parameters={"timeout": -1})).encode(), {}, 400),
    "classification": (
        json.dumps(
            question(plain_images(1), outputs=[{"name": "scores", "parameters": {"classification": 3}}])
        ).encode(), {}, 400,
    ),
    "an unknown output": (json.dumps(question(plain_images(1), outputs=[{"name": "x"}])).encode(), {}, 400),
    "outputs without names": (json.dumps(question(plain_images(1), outputs=[{}])).encode(), {}, 400),
    "half a character": (changed(datatype="\ud800"), {}, 400),
    "another datatype": (changed(datatype="INT8"), {}, 400),
    "a datatype that is none": (changed(datatype=["FP32"]), {}, 400),
    "texts as numbers": (changed(data=["a"] * 768), {}, 400),
    "NaN": (changed(data=[float("nan")] * 768), {}, 400),
    "infinity": (changed(data=[float("inf")] * 768), {}, 400),
    "huge numbers": (changed(data=[1e39] * 768), {}, 400),
    "outside the range": (changed(data=[2.0] * 768), {}, 400),
    "too few values": (changed(data=[0.5]), {}, 400),
    "no data": (changed(data=None), {}, 400),
    "another rank": (changed(shape=[768]), {}, 400),
    "two channels": (changed(shape=[1, 2, 16, 24]), {}, 400),
    "a negative length": (changed(shape=[-1, 3, 16, 16]), {}, 400),
    "a length that is true": (changed(shape=[True, 3, 16, 16]), {}, 400),
    "no pictures": (changed(shape=[0, 3, 16, 16], data=[]), {}, 400),
    "a shape that would fill the memory": (changed(shape=[1, 3, 2**31, 2**31]), {}, 400),
    "a shape beyond all numbers": (changed(shape=[10**30, 3, 16, 16]), {}, 400),
    "too many pictures": (changed(shape=[1000, 3, 16, 16]), {}, 400),
    "no image file": (changed(datatype="BYTES", shape=[1], data=["AAAA"]), {}, 400),
    "no base64": (changed(datatype="BYTES", shape=[1], data=["*"]), {}, 400),
    "cut-off texts": (
        b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}}]}\xff\xff\xff\xffab',
        {BINARY_HEADER: "96"}, 400,
    ),
    "a header length beyond the body": (changed(), {BINARY_HEADER: "99999999"}, 400),
    "a header length that is none": (changed(), {BINARY_HEADER: "-5"}, 400),
    "bytes that nobody announced": (b'{"inputs":[]}rest', {BINARY_HEADER: "13"}, 400),
    "a size beyond the body": (
        b'{"inputs":[{"name":"image","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}',
        {BINARY_HEADER: "94"}, 400,
    ),
    "a compressed body": (b"\x1f\x8b", {"Content-Encoding": "gzip"}, 415),
    "a large body": (b" " * (2**16 + 1), {}, 413),
    "a time that is none": (changed(), {"Maskrestore-Timeout": "soon"}, 400),
    "no time": (changed(), {"Maskrestore-Timeout": "0"}, 400),
}  # fmt: skip


def test_a_thousand_hostile_requests_get_the_right_status_and_keep_no_memory(gateway: Start) -> None:
    client = gateway(limits={"body_bytes": 2**16, "pictures": 8, "queue": 8}).client
    memory = []
    for _ in range(1 + 1000 // len(HOSTILE)):
        for words, (content, headers, status) in HOSTILE.items():
            found = client.post(INFER, content=content, headers=headers)
            assert found.status_code == status, (words, found.text)
            assert found.json()["error"], words
        memory.append(resident_mib())
    assert memory[-1] - memory[2] < 20, memory
    assert client.post(INFER, json=question(plain_images(1))).status_code == 200
    assert client.get("/v1/decisions").json()["decisions"][1:] == []


def resident_mib() -> float:
    """Memory of this process; 0 where the system does not tell it in this way."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if file.exists() else 0.0


def test_only_the_methods_and_paths_that_exist(gateway: Start) -> None:
    client = gateway().client
    assert client.get(INFER).status_code == 405
    assert client.post("/v2/models/colours/versions/3/infer", json=question(plain_images(1))).status_code == 404
    assert client.get("/v2/models/..%2f..%2fetc").status_code == 404
    assert client.get("/nothing").json() == {"error": "Not Found"}


def test_grey_pictures_of_any_size(server: Server, gateway: Start) -> None:
    server.metadata["inputs"][0]["shape"] = [-1, 1, -1, -1]
    running = gateway()
    for size in (16, 24):
        images = plain_images(2, channels=1, size=size)
        body = running.client.post(INFER, json=question(images)).json()
        assert rows(body).argmax(axis=1).tolist() == colour_labels(images).tolist()


def test_an_upstream_that_lies_is_an_error_and_no_label(server: Server, gateway: Start) -> None:
    running = gateway()
    server.faults = [says_json(output("FP32", [1, 8], [float("nan")] * 8))]
    found = running.client.post(INFER, json=question(plain_images(1)))
    assert found.status_code == 503
    assert "models/colours" not in found.text, "clients are not told where the model is"
    (decision,) = running.client.get("/v1/decisions").json()["decisions"]
    assert "NaN" in decision["error"]
    assert found.headers["Maskrestore-Decision"] == decision["id"]


def test_names_of_classes_from_the_upstream_are_told_whatever_they_hold(server: Server, gateway: Start) -> None:
    server.metadata["outputs"][0].update(datatype="BYTES", shape=[-1])
    server.answer = lambda _: output("BYTES", [1], ["<b>\ud800\n"])
    running = gateway()
    found = running.client.post(INFER, json=question(plain_images(1)))
    assert found.status_code == 200, found.text
    (decision,) = running.client.get("/v1/decisions").json()["decisions"]
    assert decision["label_name"] == "<b>\\ud800\\n"


def test_metadata_of_the_upstream_are_handed_on_whatever_they_hold(server: Server, gateway: Start) -> None:
    server.metadata |= {"versions": 5, "platform": "half a character: \ud800"}
    server.metadata["outputs"][0] |= {"name": "\ud800", "parameters": {"unit": "\ud800"}}
    running = gateway()
    found = running.client.get("/v2/models/colours")
    assert found.status_code == 200, found.text
    assert found.json()["platform"] == "half a character: \ud800"
    assert (found.json()["versions"], found.json()["outputs"][0]["name"]) == ([], "\ud800")
    assert running.client.get("/v1/status").status_code == 200


@pytest.mark.parametrize(
    ("extra", "words"),
    [({"scale": float("nan")}, "a number that is none"), ({"shape": [-1, 10**9]}, "1000000000 scores")],
)
def test_metadata_that_cannot_be_are_said(server: Server, gateway: Start, extra: dict[str, Any], words: str) -> None:
    server.metadata["outputs"][0] |= extra
    running = gateway()
    assert running.client.get("/v2/models/colours").status_code == 503
    assert words in running.client.get("/v1/status").json()["models"][0]["reason"]


def test_one_hot_scores_of_many_classes_take_little_memory(server: Server, gateway: Start) -> None:
    server.metadata["outputs"][0]["shape"] = [-1, 1_000_000]
    running = gateway()
    model = running.gateway.slots["colours"].model
    assert model is not None
    rows = model.interface.encode([3, 999_999], None)  # a square of a million would not fit anywhere
    assert (rows.shape, rows.sum(axis=1).tolist(), rows.argmax(axis=1).tolist()) == ((2, 10**6), [1, 1], [3, 999_999])
