import pytest
import torch
from torch import Tensor, nn

from fakes import colour_labels
from maskrestore.classifiers import CountingClassifier, ModuleClassifier
from maskrestore.errors import ConfigError
from maskrestore.lab.baselines.gradcam import (
    CAMS,
    grad_cam_plus_plus,
    heat_maps,
    normalised,
    target_layer,
    white_box,
    x_grad_cam,
)
from maskrestore.lab.victims import ResNet18

# One image, two channels of 2 x 2; the channels' activations sum to 4 and 2.
ACTIVATIONS = torch.tensor([[[[1.0, 0.0], [0.0, 3.0]], [[0.0, 2.0], [0.0, 0.0]]]])
GRADIENTS = torch.tensor([[[[2.0, 0.0], [0.0, -1.0]], [[0.0, 1.0], [0.0, 0.0]]]])


def test_grad_cam_plus_plus_of_a_case_computed_by_hand() -> None:
    # alpha = g^2 / (2 g^2 + sum(A) g^3): 4 / (8 + 4 * 8) = 0.1 and 1 / (2 + 2 * 1) = 0.25; negative gradients are cut.
    # Weights alpha * g: 0.2 and 0.25.
    expected = torch.tensor([[[0.2, 0.5], [0.0, 0.6]]])
    torch.testing.assert_close(grad_cam_plus_plus(ACTIVATIONS, GRADIENTS), expected)


def test_x_grad_cam_of_a_case_computed_by_hand() -> None:
    # Weights sum(A g) / sum(A): (1 * 2 - 3 * 1) / 4 = -0.25 and 2 * 1 / 2 = 1. Map: relu(-0.25 A1 + A2).
    expected = torch.tensor([[[0.0, 2.0], [0.0, 0.0]]])
    torch.testing.assert_close(x_grad_cam(ACTIVATIONS, GRADIENTS), expected)


@pytest.mark.parametrize("name", CAMS)
def test_silent_channels_and_tiny_gradients_do_no_harm(name: str) -> None:
    silent = torch.cat([ACTIVATIONS, torch.zeros(1, 1, 2, 2)], dim=1)
    gradients = torch.cat([GRADIENTS, torch.ones(1, 1, 2, 2)], dim=1)
    torch.testing.assert_close(CAMS[name](silent, gradients), CAMS[name](ACTIVATIONS, GRADIENTS))
    # An epsilon beside g^2 would wipe these out.
    cam = CAMS[name](ACTIVATIONS, GRADIENTS * 1e-5)
    assert cam.max() > 1e-6


def test_maps_are_stretched_to_the_unit_interval_and_constant_ones_vanish() -> None:
    maps = normalised(torch.tensor([[[1.0, 1.0], [1.0, 3.0]], [[5.0, 5.0], [5.0, 5.0]]]), 2, 2)
    assert torch.equal(maps, torch.tensor([[[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]))
    assert normalised(torch.rand(3, 4, 4), 30, 20).shape == (3, 30, 20)


class ChannelMeans(nn.Module):
    """Logit of class ``c``: the mean of channel ``c``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1, bias=False)
        self.layer.weight.data = torch.eye(3)[:, :, None, None].clone()

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images).mean(dim=(2, 3))


@pytest.mark.parametrize("cam", CAMS)
@pytest.mark.parametrize("layer", [None, "layer"])
def test_the_map_of_a_label_is_hot_where_its_evidence_is(cam: str, layer: str | None) -> None:
    images = torch.zeros(5, 3, 8, 8)
    images[:, 0, 1:3, 1:3] = 1  # red speaks for label 0
    images[:, 2, 5:7, 5:7] = 1  # blue for label 2
    labels = torch.tensor([0, 2, 0, 2, 2])
    classifier = ModuleClassifier(ChannelMeans(), micro_batch=2)
    maps = heat_maps(classifier, images, labels, cam=cam, layer=layer)
    torch.testing.assert_close(maps, images[torch.arange(5), labels])


def test_the_last_stage_of_a_residual_network_is_taken_with_its_true_gradients() -> None:
    torch.manual_seed(0)
    network = ResNet18(5, width=4).eval()
    images, labels = torch.rand(3, 3, 32, 32), torch.tensor([0, 3, 4])
    features = network.stage_features(images)[-1].detach().requires_grad_()
    score = network.head(features.mean((2, 3)))[torch.arange(3), labels].sum()
    (gradients,) = torch.autograd.grad(score, features)
    expected = normalised(grad_cam_plus_plus(features.detach(), gradients), 32, 32)
    for layer in (None, "stages.3"):
        maps = heat_maps(ModuleClassifier(network), images, labels, cam="gradcam++", layer=layer)
        torch.testing.assert_close(maps, expected, atol=1e-4, rtol=0)


def test_frozen_weights_and_inference_mode_are_no_obstacle_and_leave_no_trace() -> None:
    torch.manual_seed(0)
    network = ResNet18(5, width=4).requires_grad_(False)
    classifier = ModuleClassifier(network)
    with torch.inference_mode():
        maps = heat_maps(classifier, torch.rand(2, 3, 16, 16), torch.tensor([1, 2]), cam="xgradcam", layer=None)
    assert maps.shape == (2, 16, 16)
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_layers_are_found_or_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten())
    assert target_layer(network) is network[2]
    assert target_layer(network, "0") is network[0]
    with pytest.raises(ConfigError, match="no layer 'nine'; it has: 0, 1, 2, 3"):
        target_layer(network, "nine")
    with pytest.raises(ConfigError, match="name the layer"):
        target_layer(nn.Linear(2, 2))


def test_modules_that_cannot_be_looked_into_are_refused() -> None:
    images, labels = torch.rand(1, 3, 8, 8), torch.tensor([0])
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(ConfigError, match=r"it gave shape \(8, 144\); name a convolutional layer"):
        heat_maps(ModuleClassifier(flat), images, labels, cam="xgradcam", layer="1")

    class Labels(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).argmax(dim=1)

    with pytest.raises(ConfigError, match="differentiable logits"):
        heat_maps(ModuleClassifier(Labels(*flat)), images, labels, cam="xgradcam", layer=None)


def test_only_a_module_is_a_white_box() -> None:
    module = ModuleClassifier(ChannelMeans())
    assert white_box(CountingClassifier(CountingClassifier(module))) is module
    assert white_box(module.module).module is module.module
    with pytest.raises(ConfigError, match=r"got a black box \(function\)"):
        white_box(CountingClassifier(colour_labels))
