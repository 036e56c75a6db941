from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fakes import MeanRestorer, colour_labels
from maskrestore.classifiers import CountingClassifier, ModuleClassifier
from maskrestore.errors import ConfigError
from maskrestore.lab.baselines.completion import CompletionNetwork, CompletionRestorer
from maskrestore.lab.baselines.februus import Februus, FebruusConfig
from maskrestore.lab.victims import ResNet18
from maskrestore.mae.choice import RestorerBySize
from maskrestore.mae.conv import ConvMAE, ConvMAEConfig
from maskrestore.mae.restorer import MAERestorer
from maskrestore.types import Defense


class RedTrigger(nn.Module):
    """Label 1 where there are pixels of pure red, else 0."""

    def __init__(self) -> None:
        super().__init__()
        self.redness = nn.Conv2d(3, 1, 1)
        self.redness.weight.data = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None]
        self.redness.bias.data.fill_(-0.5)
        self.rectify = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        red = self.rectify(self.redness(images)).sum(dim=(1, 2, 3))
        return torch.stack([torch.full_like(red, 0.25), red], dim=1)


def triggered(count: int) -> Tensor:
    """Grey images, a red square on each but the first."""
    images = torch.full((count, 3, 16, 16), 0.5)
    images[1:, 0, 4:6, 8:10] = 1
    images[1:, 1:, 4:6, 8:10] = 0
    return images


@pytest.mark.parametrize("cam", ["xgradcam", "gradcam++"])
def test_the_trigger_is_found_cut_out_and_painted_over(cam: str) -> None:
    config = FebruusConfig(cam=cam, layer="rectify")  # type: ignore[arg-type]
    defense = Februus(MeanRestorer(8), config)
    assert isinstance(defense, Defense)
    images, classifier = triggered(3), CountingClassifier(ModuleClassifier(RedTrigger()))
    result = defense.purify(images, classifier)
    assert result.original_labels.tolist() == [0, 1, 1]
    assert result.labels.tolist() == [0, 0, 0]
    assert result.hidden is not None
    assert result.hidden[1].nonzero().tolist() == [[2, 4]]  # the token of rows 4 and 5, columns 8 and 9
    assert torch.allclose(result.images, torch.full_like(images, 0.5))
    # Nothing on the first image speaks for any label: it is left alone, without a second query.
    assert result.queries.tolist() == [1, 2, 2]
    assert classifier.queries == 5
    assert torch.equal(result.images[0], images[0])


def test_a_lower_threshold_hides_more() -> None:
    torch.manual_seed(0)
    classifier = ModuleClassifier(ResNet18(5, width=4))
    images = torch.rand(4, 3, 32, 32)
    shares = []
    for threshold in (0.6, 0.7, 0.8):
        result = Februus(MeanRestorer(16), FebruusConfig(threshold=threshold)).purify(images, classifier)
        assert result.hidden is not None
        assert result.scores is not None
        assert torch.equal(result.hidden, result.scores >= threshold)
        assert result.scores.flatten(1).amax(dim=1).tolist() == [1, 1, 1, 1]
        shares.append(result.hidden.float().mean())
    assert shares[0] > shares[1] > shares[2] > 0


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 20, 28)])
def test_an_image_is_purified_to_the_same_bits_in_any_batch(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = ConvMAE(ConvMAEConfig(image_size=16, widths=(16, 32), encoder_blocks=(1, 1), decoder_blocks=(1,)))
    defense = Februus(MAERestorer(network, micro_batch=4), FebruusConfig())
    classifier = ModuleClassifier(ResNet18(5, width=4), micro_batch=4)
    images = torch.rand(7, *shape)
    together = defense.purify(images, classifier)
    order = torch.randperm(7)
    shuffled = defense.purify(images[order], classifier)
    for name in ("images", "labels", "scores", "hidden", "queries"):
        assert torch.equal(getattr(shuffled, name), getattr(together, name)[order]), name
        for index in range(7):
            alone = defense.purify(images[index : index + 1], classifier)
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[index]), name


def test_a_black_box_is_refused() -> None:
    with pytest.raises(ConfigError, match="black box"):
        Februus(MeanRestorer()).purify(torch.rand(1, 3, 16, 16), colour_labels)


def test_building_loads_the_packaged_restorer_or_a_generator(tmp_path: Path) -> None:
    default = FebruusConfig().build()
    assert isinstance(default.restorer, RestorerBySize)
    torch.save(CompletionNetwork().state_dict(), tmp_path / "gan.pth")
    config = FebruusConfig(generator=str(tmp_path / "gan.pth"), generator_size=16, generator_fill=(0.1, 0.2, 0.3))
    restorer = config.build(key="secret").restorer
    assert isinstance(restorer, CompletionRestorer)
    assert restorer.grid == 16
    assert restorer.fill.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    result = Februus(restorer, config).purify(triggered(2), ModuleClassifier(RedTrigger()))
    assert result.images.shape == (2, 3, 16, 16)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="cam must be one of"):
        FebruusConfig(cam="guess")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="threshold"):
        FebruusConfig(threshold=0)
