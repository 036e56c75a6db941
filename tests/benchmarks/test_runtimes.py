import pytest
import torch
from benchmarks.runtimes import Case, ViTPass, measure
from benchmarks.stages import Clock

from benchmarks import runtimes
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.mae.packing import token_order
from maskrestore.mae.vit import ViTMAE
from maskrestore.mae.vit_config import ViTMAEConfig

SMALL = ViTMAEConfig(
    image_size=16, patch_size=4, width=32, depth=2, heads=2, decoder_width=32, decoder_depth=2, decoder_heads=2
)


@pytest.fixture
def case() -> Case:
    torch.manual_seed(0)
    network = ViTMAE(SMALL).eval()
    hidden = torch.rand(3, 16).argsort(dim=1).argsort(dim=1) < 12
    pixels = tokens_to_pixels(hidden.unflatten(1, (4, 4)), 16, 16)
    batch = torch.rand(3, 3, 16, 16), token_order(hidden)
    return Case(name="small", graph=ViTPass(network, 4).eval(), batches=[batch], hidden=pixels)


def test_the_graph_restores_what_the_network_does(case: Case) -> None:
    (images, order), network = case.batches[0], case.graph.network
    hidden = torch.ones(3, 16, dtype=torch.bool).scatter(1, order[:, :4], False).unflatten(1, (4, 4))
    with torch.no_grad():
        pixels = case.hidden.expand_as(images)
        assert torch.equal(case.graph(images, order)[pixels], network(images, hidden)[pixels])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_an_exported_graph_is_timed_and_compared(case: Case) -> None:
    pytest.importorskip("onnx")
    found = measure(case, ["torch", "ONNX Runtime"], Clock("cpu", "wall"), 2)["runtimes"]
    assert found["torch"]["largest_error"] == 0
    assert 0 < found["ONNX Runtime"]["largest_error"] < 1e-5
    assert len(found["ONNX Runtime"]["seconds"]) == 2


def test_a_runtime_that_fails_is_reported(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'openvino'")

    monkeypatch.setitem(runtimes.CONTENDERS, "OpenVINO", absent)
    found = measure(case, ["torch", "OpenVINO"], Clock("cpu", "wall"), 1)["runtimes"]
    assert found["OpenVINO"] == {"failed": "ModuleNotFoundError: No module named 'openvino'"}
