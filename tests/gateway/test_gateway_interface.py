"""What clients of models in the process send and get, and how their tensors become pictures."""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from fakes import MeanRestorer, colour_labels, plain_images
from gateway_runner import Running, running_gateway
from maskrestore import ModuleClassifier
from maskrestore.classifiers import as_classifier
from maskrestore.errors import ConfigError
from maskrestore.gateway.config import GatewayConfig, ModelConfig
from maskrestore.gateway.interface import interface_of
from onnx_graphs import means, save, value


def means_model(path: Path, shape: list[Any], *, kind: int = onnx.TensorProto.FLOAT, labels: bool = False) -> Path:
    """Scores are the means of the channels."""
    axes = [1, 2] if shape[-1] == 3 else [2, 3]
    nodes = []
    source = "picture"
    if kind != onnx.TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", ["picture"], ["numbers"], to=onnx.TensorProto.FLOAT))
        source = "numbers"
    nodes.append(means(source, "scores", axes=axes))
    outputs = [value("scores", onnx.TensorProto.FLOAT, ["N", 3])]
    if labels:
        nodes.append(helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0))
        outputs = [value("label", onnx.TensorProto.INT64, ["N"])]
    return save(path, nodes, [value("picture", kind, shape)], outputs)


@contextmanager
def gateway(**model: Any) -> Iterator[Running]:
    with running_gateway(GatewayConfig.model_validate({"models": {"m": model}}), MeanRestorer()) as running:
        yield running


def ask(running: Running, values: np.ndarray, datatype: str, name: str = "picture") -> Any:
    entry = {"name": name, "datatype": datatype, "shape": list(values.shape), "data": values.ravel().tolist()}
    return running.client.post("/v2/models/m/infer", json={"inputs": [entry]})


def test_an_onnx_file_in_the_process(tmp_path: Path) -> None:
    images = plain_images(3)
    with gateway(classifier=str(means_model(tmp_path / "a.onnx", ["N", 3, 16, 16]))) as running:
        found = running.client.get("/v2/models/m").json()
        assert found["inputs"] == [{"name": "picture", "datatype": "FP32", "shape": [-1, 3, 16, 16]}]
        assert found["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}]
        scores = ask(running, images.numpy(), "FP32").json()["outputs"][0]
        expected = images.mean(dim=(2, 3)).argmax(dim=1)
        assert np.array(scores["data"]).reshape(3, 3).argmax(axis=1).tolist() == expected.tolist()
        refused = ask(running, plain_images(1, size=24).numpy(), "FP32")
        assert refused.status_code == 400
        assert "the model takes [-1, 3, 16, 16]" in refused.json()["error"]


def test_whole_numbers_with_the_channels_last(tmp_path: Path) -> None:
    images = plain_images(2)
    levels = images.mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    model = means_model(tmp_path / "a.onnx", ["N", 16, 16, 3], kind=onnx.TensorProto.UINT8, labels=True)
    with gateway(classifier=str(model)) as running:
        assert running.client.get("/v2/models/m").json()["inputs"][0]["datatype"] == "UINT8"
        found = ask(running, levels, "UINT8").json()["outputs"][0]
        assert (found["name"], found["datatype"], found["shape"]) == ("label", "INT64", [2])
        assert found["data"] == levels.mean(axis=(1, 2)).argmax(axis=1).tolist()
        decision = running.client.get("/v1/decisions").json()["decisions"][-1]
        assert (decision["channels"], decision["height"], decision["width"]) == (3, 16, 16)


def test_rows_of_numbers(tmp_path: Path) -> None:
    shape = helper.make_tensor("shape", onnx.TensorProto.INT64, [4], [-1, 3, 8, 8])
    nodes = [helper.make_node("Reshape", ["picture", "shape"], ["square"]), means("square", "scores")]
    floats = onnx.TensorProto.FLOAT
    path = save(
        tmp_path / "a.onnx", nodes, [value("picture", floats, ["N", 192])], [value("scores", floats, ["N", 3])], [shape]
    )  # fmt: skip
    images = plain_images(2, size=8)
    for layout, order in (("flat", images), ("flat-hwc", images.permute(0, 2, 3, 1))):
        with gateway(classifier=str(path), layout=layout, input_size=8) as running:
            found = ask(running, order.flatten(1).numpy(), "FP32")
            assert found.status_code == 200, found.text
            assert ask(running, order.flatten(1).numpy()[:, :-3], "FP32").status_code == 400
            decision = running.client.get("/v1/decisions").json()["decisions"][-1]
            assert (decision["channels"], decision["height"], decision["width"]) == (3, 8, 8)
            kept = running.client.get(f"/v1/decisions/{decision['id']}/before.png")
            assert kept.status_code == 200


class Scores(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def interface(classifier: Any, **config: Any) -> Any:
    return interface_of("m", as_classifier(classifier), ModelConfig(classifier="x:y", **config))


def test_modules_and_functions_answer_with_labels_or_with_as_many_scores_as_configured() -> None:
    assert interface(ModuleClassifier(Scores())).metadata["outputs"] == [
        {"name": "label", "datatype": "INT64", "shape": [-1]}
    ]
    scores = interface(ModuleClassifier(Scores()), class_count=3)
    assert scores.metadata["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}]
    assert scores.encode([2, 0], None).tolist() == [[0, 0, 1], [1, 0, 0]]
    with pytest.raises(ConfigError, match="answered 3, and its scores have 3 places"):
        scores.encode([3], None)
    sized = interface(ModuleClassifier(Scores(), input_size=(8, 9)))
    assert sized.metadata["inputs"][0]["shape"] == [-1, -1, 8, 9]


SCORES = Scores()


@pytest.mark.parametrize("kind", ["onnx", "module", "torchscript"])
def test_a_model_in_the_process_hands_on_its_own_scores(tmp_path: Path, kind: str) -> None:
    images = plain_images(3)
    classifier, name = "test_gateway_interface:SCORES", "input-0"
    if kind == "onnx":
        classifier, name = str(means_model(tmp_path / "a.onnx", ["N", 3, 16, 16])), "picture"
    elif kind == "torchscript":
        classifier = str(tmp_path / "a.pt")
        torch.jit.script(Scores()).save(classifier)
    with gateway(classifier=classifier, scores="upstream", **({} if kind == "onnx" else {"class_count": 3})) as running:
        described = running.client.get("/v2/models/m").json()
        assert described["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}]
        found = ask(running, images.numpy(), "FP32", name).json()["outputs"]
        assert [one["name"] for one in found] == ["scores"]
        scores = torch.tensor(found[0]["data"]).reshape(found[0]["shape"])
        # These pictures stay as they are.
        assert torch.allclose(scores, images.mean(dim=(2, 3)), atol=1e-6)
        (decision, *_) = running.client.get("/v1/decisions").json()["decisions"]
        assert decision["changed"] is False
        alone = torch.tensor(ask(running, images[1:2].numpy(), "FP32", name).json()["outputs"][0]["data"])
        assert torch.equal(alone, scores[1]), "the same bits as among others"


class Busy:
    """A function that says how many threads were in it at a time."""

    def __init__(self) -> None:
        self.inside = self.most = 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.02)
        self.inside -= 1
        return colour_labels(images)


BUSY = Busy()


def test_a_function_is_asked_by_one_thread_at_a_time() -> None:
    with gateway(classifier="test_gateway_interface:BUSY", class_count=8) as running, ThreadPoolExecutor(4) as pool:
        model = running.gateway.slots["m"].model
        assert model is not None
        plain = [pool.submit(model.plain_labels, [image], math.inf) for image in plain_images(8)]
        assert ask(running, plain_images(2).numpy(), "FP32", "input-0").status_code == 200
        assert [one.result()[0] for one in plain] == colour_labels(plain_images(8)).tolist()
    assert BUSY.most == 1


def test_who_has_labels_only_has_no_scores_to_hand_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are no scores to hand on"):
        interface(lambda images: images[:, 0, 0, 0].long(), scores="upstream")
    labels = means_model(tmp_path / "a.onnx", ["N", 3, 16, 16], labels=True)
    with gateway(classifier=str(labels), scores="upstream") as running:
        found = ask(running, plain_images(2).numpy(), "FP32").json()["outputs"]
        assert found[0]["datatype"] == "INT64", "its own answer"
