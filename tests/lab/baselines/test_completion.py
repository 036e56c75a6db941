from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from maskrestore.errors import CheckpointError, InvalidImageError
from maskrestore.lab.baselines.completion import CIFAR10_MEAN, CompletionNetwork, CompletionRestorer, load_completion
from maskrestore.types import Restorer


class Copy(nn.Module):
    """Completes with what it is given: the filled hole."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3]


def test_the_network_has_the_published_weights() -> None:
    network = CompletionNetwork()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes["conv1.weight"] == (64, 4, 5, 5)
    assert shapes["conv10.weight"] == (256, 256, 3, 3)
    assert shapes["deconv13.weight"] == (256, 128, 4, 4)
    assert shapes["conv17.bias"] == (3,)
    assert shapes["bn16.running_mean"] == (32,)
    assert "bn17.weight" not in shapes
    assert network.conv10.dilation == (16, 16)
    # 6,066,179 of the convolutions and 5,952 of the batch norms.
    assert sum(parameter.numel() for parameter in network.parameters()) == 6_072_131
    assert network.eval()(torch.rand(1, 4, 32, 32)).shape == (1, 3, 32, 32)


def test_holes_are_filled_and_everything_else_stays() -> None:
    restorer = CompletionRestorer(Copy(), image_size=16, micro_batch=2)
    assert isinstance(restorer, Restorer)
    images = torch.rand(3, 3, 16, 16)
    hidden = torch.zeros(3, 16, 16, dtype=torch.bool)
    hidden[:, 2:5, 3:7] = True
    restored = restorer.restore(images, hidden)
    assert torch.equal(restored[:, :, 2:5, 3:7], torch.tensor(CIFAR10_MEAN)[:, None, None].expand(3, 3, 3, 4))
    mask = hidden.unsqueeze(1).expand_as(images)
    assert torch.equal(restored[~mask], images[~mask])
    grey = restorer.restore(images[:, :1], hidden)
    assert grey[0, 0, 2, 3] == pytest.approx(sum(CIFAR10_MEAN) / 3)


def test_a_completion_is_the_same_bits_in_any_batch() -> None:
    torch.manual_seed(0)
    restorer = CompletionRestorer(CompletionNetwork(), image_size=8, micro_batch=2)
    images, hidden = torch.rand(3, 3, 12, 8), torch.rand(3, 8, 8) < 0.3
    together = restorer.restore(images, hidden)
    for index in range(3):
        assert torch.equal(restorer.restore(images[index : index + 1], hidden[index : index + 1])[0], together[index])


def test_foreign_weights_are_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = CompletionNetwork().eval()
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    parallel = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"model": parallel, "epoch": 3}, tmp_path / "nested")
    save_file(network.state_dict(), tmp_path / "safe.safetensors")
    inputs = torch.rand(1, 4, 16, 16)
    for name in ("plain.pth", "nested", "safe.safetensors"):
        assert torch.equal(load_completion(tmp_path / name)(inputs), network(inputs)), name


def test_what_is_not_a_completion_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no generator"):
        load_completion(tmp_path / "missing.pth")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="does not hold a completion network"):
        load_completion(tmp_path / "other.pth")
    torch.save(Copy(), tmp_path / "pickle.pth")
    with pytest.raises(CheckpointError, match="refused"):
        load_completion(tmp_path / "pickle.pth")
    with pytest.raises(CheckpointError, match="multiple of 4"):
        CompletionRestorer(Copy(), image_size=30)
    with pytest.raises(InvalidImageError, match="expected hidden"):
        CompletionRestorer(Copy()).restore(torch.rand(1, 3, 32, 32), torch.zeros(1, 16, 16, dtype=torch.bool))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_is_refused(tmp_path: Path) -> None:
    torch.jit.script(Copy()).save(tmp_path / "program.pt")
    with pytest.raises(CheckpointError, match=r"program\.pt is refused: it is a TorchScript program"):
        load_completion(tmp_path / "program.pt")
