"""GradCAM++ and XGradCAM: heat maps of what a network's prediction relies on. White box: they need its gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from maskrestore.classifiers import CountingClassifier, ModuleClassifier
from maskrestore.classifiers.normalisation import fixed_chunks
from maskrestore.errors import ConfigError
from maskrestore.imaging.resize import resize

__all__ = ["CAMS", "grad_cam_plus_plus", "heat_maps", "normalised", "target_layer", "white_box", "x_grad_cam"]


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """GradCAM++: channels weighted by ``sum of alpha * relu(gradient)``.

    activations: ``(B, K, h, w)`` of a convolutional layer; gradients: of the class's logit with respect to them, the
    same shape. Returns ``(B, h, w)``, at least 0, with arbitrary scale.

    Source: Chattopadhay et al. 2018, Eq. 5, 7 and 19: ``alpha = g^2 / (2 g^2 + g^3 * sum of activations)``. Here the
    fraction is reduced by g^2, so that small gradients need no epsilon. The factor exp(logit) is left out: it is the
    same for the whole image.
    """
    denominator = 2 + gradients * activations.sum(dim=(2, 3), keepdim=True)
    # The denominator can be 0 when activations have a negative sum, i.e. without a ReLU.
    usable = (gradients > 0) & (denominator.abs() > 1e-6)
    weights = torch.where(usable, gradients / denominator, 0.0).sum(dim=(2, 3))
    return _weighted(activations, weights)


def x_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """XGradCAM: channels weighted by the average of their gradients, each gradient weighted by its activation.

    Shapes as in :func:`grad_cam_plus_plus`. A channel whose activations sum to 0 has the weight 0. Source: Fu et al.
    2020, Eq. 8. Departure: no epsilon is added to the sum.
    """
    total = activations.sum(dim=(2, 3))
    weights = torch.where(total != 0, (gradients * activations).sum(dim=(2, 3)) / total, 0.0)
    return _weighted(activations, weights)


CAMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"xgradcam": x_grad_cam, "gradcam++": grad_cam_plus_plus}
"""Heat maps by name. Each maps activations and gradients, both ``(B, K, h, w)``, to ``(B, h, w)``."""


def _weighted(activations: Tensor, weights: Tensor) -> Tensor:
    """Return ``relu(sum of weight * channel)``. ``(B, K, h, w)`` and ``(B, K)`` -> ``(B, h, w)``."""
    return (activations * weights[:, :, None, None]).sum(dim=1).relu()


def normalised(cams: Tensor, height: int, width: int) -> Tensor:
    """Resize maps ``(B, h, w)`` to ``(B, height, width)`` and rescale each to [0, 1]. A constant map becomes 0."""
    maps = resize(cams.unsqueeze(1), height, width).squeeze(1)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 0.0)


def white_box(classifier: object) -> ModuleClassifier:
    """Return the module's adapter without query counters. Raises ConfigError for a black box: it has no gradients."""
    inner = classifier
    while isinstance(inner, CountingClassifier):
        inner = inner.classifier
    if isinstance(inner, nn.Module):
        return ModuleClassifier(inner)
    if not isinstance(inner, ModuleClassifier):
        raise ConfigError(
            f"this defense needs the classifier's gradients: expected a torch.nn.Module or a ModuleClassifier, got a "
            f"black box ({type(inner).__name__}); use a black-box defense, such as bdmae"
        )
    return inner


def target_layer(module: nn.Module, name: str | None = None) -> nn.Module:
    """Return the layer whose activations give the heat map: the one called ``name`` in ``named_modules()``.

    The default is the last of ``module.stages`` (the residual networks of ``victims`` have them), else the last
    ``Conv2d``. Raises ConfigError if there is no such layer.
    """
    layers: dict[str, nn.Module] = dict(module.named_modules())
    if name is not None:
        if name not in layers or not name:
            known = ", ".join(key for key in layers if key)
            raise ConfigError(f"{type(module).__name__} has no layer {name!r}; it has: {known or 'none'}")
        return layers[name]
    stages = getattr(module, "stages", None)
    if isinstance(stages, nn.Sequential | nn.ModuleList) and len(stages):
        last: nn.Module = stages[-1]
        return last
    convolutions = [layer for layer in layers.values() if isinstance(layer, nn.Conv2d)]
    if not convolutions:
        raise ConfigError(f"{type(module).__name__} has neither stages nor a Conv2d; name the layer for the heat map")
    return convolutions[-1]


def heat_maps(classifier: ModuleClassifier, images: Tensor, labels: Tensor, *, cam: str, layer: str | None) -> Tensor:
    """Return ``(B, H, W)`` in [0, 1]: how much each pixel supports its image's label.

    images: ``(B, C, H, W)`` in [0, 1]; labels: ``(B,)``; cam: a name of :data:`CAMS`; layer: see :func:`target_layer`.
    The module processes exactly ``classifier.micro_batch`` images at a time, in float32. Raises ConfigError when there
    is no such layer, its output is not ``(B, K, h, w)``, or the module's output is not differentiable ``(B, K)``
    logits.
    """
    target = target_layer(classifier.module, layer)
    classifier.module.eval()
    cams = []
    for index, count in fixed_chunks(torch.arange(len(images)), classifier.micro_batch):
        activations, gradients = _activations_and_gradients(classifier, images[index], labels[index], target)
        cams.append(CAMS[cam](activations, gradients)[:count].cpu())
    return normalised(torch.cat(cams), *images.shape[-2:])


# Gradients are not available in inference mode, which the caller may have enabled.
@torch.inference_mode(mode=False)
@torch.enable_grad()
def _activations_and_gradients(
    classifier: ModuleClassifier, images: Tensor, labels: Tensor, target: nn.Module
) -> tuple[Tensor, Tensor]:
    """Return activations of the layer ``target`` and gradients of the logits of ``labels`` with respect to them.

    Both are ``(B, K, h, w)`` on the module's device.
    """
    seen: list[Tensor] = []
    handle = target.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    inputs = classifier.normalise(images.clone()).to(classifier.device, memory_format=torch.channels_last)
    try:
        # Inputs with requires_grad make the output differentiable even when the module's parameters are frozen.
        output = classifier.module(inputs.requires_grad_())
    finally:
        handle.remove()
    logits = getattr(output, "logits", output)
    if logits.ndim != 2 or not logits.requires_grad:
        raise ConfigError(
            "expected the module to return differentiable logits (B, K), "
            f"got {logits.dtype} of shape {tuple(logits.shape)}"
        )
    if not seen or not isinstance(seen[-1], Tensor) or seen[-1].ndim != 4:
        found = f"shape {tuple(seen[-1].shape)}" if seen and isinstance(seen[-1], Tensor) else "no tensor"
        raise ConfigError(f"expected the layer to return (B, K, h, w), it gave {found}; name a convolutional layer")
    score = logits.gather(1, labels.clone().to(logits.device).unsqueeze(1)).sum()
    # An image does not influence another image's logits, so the gradient of the sum contains each image's gradient.
    (gradients,) = torch.autograd.grad(score, seen[-1])
    return seen[-1].detach(), gradients
