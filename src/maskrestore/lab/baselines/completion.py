"""The inpainting network of Februus, to run weights that others trained."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.classifiers.normalisation import fixed_chunks
from maskrestore.errors import CheckpointError, InvalidImageError
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.resize import resize
from maskrestore.mae.checkpoints.weight_files import as_tensors, read_pickle, read_safetensors

__all__ = ["CIFAR10_MEAN", "CompletionNetwork", "CompletionRestorer", "load_completion"]

CIFAR10_MEAN = (0.4914655575, 0.4821903321, 0.4465675537)
"""Mean colour of CIFAR-10's training images, RGB in [0, 1]. The authors' code fills hidden pixels with it."""

_DOWN = 4  # two layers of stride 2
# Layers 1 to 12: input channels, output channels, kernel, stride, dilation.
_CONVOLUTIONS = (
    (4, 64, 5, 1, 1),
    (64, 128, 3, 2, 1),
    (128, 128, 3, 1, 1),
    (128, 256, 3, 2, 1),
    (256, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
    (256, 256, 3, 1, 2),
    (256, 256, 3, 1, 4),
    (256, 256, 3, 1, 8),
    (256, 256, 3, 1, 16),
    (256, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
)


class CompletionNetwork(nn.Module):
    """Maps image and mask, ``(B, 4, S, S)`` with ``S`` a multiple of 4, to a completed ``(B, 3, S, S)`` in [0, 1].

    Source: Iizuka et al., Globally and Locally Consistent Image Completion, 2017, table 1, as implemented in
    AdelaideAuto-IDLab/Februus ``scene/models.py`` (batch norm after the activation). The names of the weights are the
    same as there.
    """

    def __init__(self) -> None:
        super().__init__()
        for number, (inputs, outputs, kernel, stride, dilation) in enumerate(_CONVOLUTIONS, start=1):
            padding = dilation * (kernel // 2)
            self.add_module(f"conv{number}", nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation))
        self.deconv13 = nn.ConvTranspose2d(256, 128, 4, 2, 1)
        self.conv14 = nn.Conv2d(128, 128, 3, 1, 1)
        self.deconv15 = nn.ConvTranspose2d(128, 64, 4, 2, 1)
        self.conv16 = nn.Conv2d(64, 32, 3, 1, 1)
        self.conv17 = nn.Conv2d(32, 3, 3, 1, 1)
        widths = (*(outputs for _, outputs, *_ in _CONVOLUTIONS), 128, 128, 64, 32)
        for number, width in enumerate(widths, start=1):
            self.add_module(f"bn{number}", nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Complete the images. The fourth channel is the mask: 1 where the image is hidden, else 0."""
        for number in range(1, 17):
            kind = "deconv" if number in (13, 15) else "conv"
            x = self.get_submodule(f"bn{number}")(F.relu(self.get_submodule(f"{kind}{number}")(x)))
        completed: Tensor = self.conv17(x).sigmoid()
        return completed


class CompletionRestorer:
    """Adapts a completion network to :class:`~maskrestore.types.Restorer`. Each pixel of its input is a token."""

    def __init__(
        self,
        network: nn.Module,
        *,
        image_size: int = 32,
        fill: Sequence[float] = CIFAR10_MEAN,
        micro_batch: int = 32,
        device: str | torch.device = "cpu",
    ) -> None:
        """image_size: side S of the training images in pixels, a multiple of 4; fill: RGB of hidden pixels in [0, 1].

        micro_batch: images per forward pass; smaller batches are padded to it. Raises CheckpointError when
        ``image_size`` is not a positive multiple of 4.
        """
        if image_size < _DOWN or image_size % _DOWN:
            raise CheckpointError(
                f"the image size of a completion network must be a multiple of {_DOWN} pixels, got {image_size}"
            )
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.fill = torch.tensor(fill)[:, None, None]
        self.image_size = image_size
        self.micro_batch = micro_batch

    @property
    def grid(self) -> int:
        """Number of tokens along each side."""
        return self.image_size

    @torch.inference_mode()
    def restore(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Complete the hidden pixels of ``(B, C, H, W)`` images in [0, 1]. Visible pixels stay bit-identical.

        hidden: ``(B, S, S)`` bool. Departure: the completion is pasted; the authors use Poisson blending. Raises
        InvalidImageError when ``hidden`` has another shape.
        """
        size, (channels, height, width) = self.image_size, images.shape[1:]
        if tuple(hidden.shape) != (len(images), size, size):
            raise InvalidImageError(f"expected hidden of shape {(len(images), size, size)}, got {tuple(hidden.shape)}")
        completed = []
        for index, count in fixed_chunks(torch.arange(len(images)), self.micro_batch):
            mask = hidden[index].float().unsqueeze(1)  # (B, S, S) -> (B, 1, S, S)
            filled = torch.where(mask > 0, self.fill, resize(images[index], size, size).expand(-1, 3, -1, -1))
            output = self.network(torch.cat([filled, mask], dim=1).to(self.device)).float().cpu()[:count]
            output = output.mean(dim=1, keepdim=True) if channels == 1 else output
            completed.append(resize(output, height, width).clamp(0, 1))
        return torch.where(tokens_to_pixels(hidden, height, width), torch.cat(completed), images)


def load_completion(path: str | Path) -> CompletionNetwork:
    """Load a third-party generator's state dict from ``.safetensors`` or, with ``weights_only=True``, a PyTorch file.

    Accepts files of the authors' ``CompletionNetwork``, also when saved from ``DataParallel`` or under the key
    ``model``. TorchScript archives and pickles that run code are refused: save the ``state_dict()`` instead.
    Raises CheckpointError for these, for a missing or damaged file, and for weights of another architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no generator {str(path)!r}: expected a file with the weights of a completion network")
    if _is_torchscript(path):
        raise CheckpointError(f"{path} is refused: it is a TorchScript program; save the state_dict() of the module")
    if path.suffix == ".safetensors":
        tensors = read_safetensors(path)[0]
    else:
        content = read_pickle(path)
        tensors = as_tensors(content.get("model", content), path)
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    # Initialising the network must not change the state of the caller's random generator.
    with torch.random.fork_rng(devices=[]):
        network = CompletionNetwork()
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not hold a completion network: {error}") from error
    return network.eval()


def _is_torchscript(path: Path) -> bool:
    """Return whether the file is a TorchScript archive: a zip file with code and its constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
