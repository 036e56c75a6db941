import pytest
import torch

from maskrestore.classifiers.normalisation import Normalisation
from maskrestore.errors import InvalidImageError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    "settings",
    [(0.0, 1.0), (0.5, 0.25), IMAGENET, (0.0, 1.0, (0, 255)), (0.0, 1.0, (-1, 1)), (0.0, 1.0, (0, 1), "bgr"),
     (*IMAGENET, (0, 255), "bgr")],
)  # fmt: skip
def test_a_normalisation_can_be_undone(settings: tuple) -> None:
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    normalise = Normalisation.of(*settings)
    assert torch.allclose(normalise.undo(normalise(images)), images, atol=1e-6)


def test_pixels_that_were_not_changed_stay_bit_for_bit() -> None:
    images = torch.rand(2, 3, 4, 5)
    assert torch.equal(Normalisation.of(0.0, 1.0).undo(images), images)


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(InvalidImageError, match="for 3 channels"):
        Normalisation.of(*IMAGENET).undo(torch.rand(1, 1, 4, 4))
