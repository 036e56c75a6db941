import torch

from maskrestore.imaging.filters import affine, bilateral


def test_bilateral_smooths_noise_and_keeps_edges() -> None:
    image = torch.zeros(3, 16, 16)
    image[:, :, 8:] = 1.0
    noisy = (image + 0.05 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    smooth = bilateral(noisy, radius=2, space=1.5, colour=0.2)
    assert (smooth - image).std() < 0.6 * (noisy - image).std()
    assert smooth[:, :, 7].max() < 0.2
    assert smooth[:, :, 8].min() > 0.8


def test_bilateral_equals_its_definition_at_a_pixel() -> None:
    image = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(1))
    total, weights = torch.zeros(3), 0.0
    for row in range(2, 5):
        for column in range(2, 5):
            distance = (image[:, row, column] - image[:, 3, 3]).square().sum()
            weight = torch.exp(-distance / (2 * 0.3**2) - ((row - 3) ** 2 + (column - 3) ** 2) / (2 * 1.2**2))
            total, weights = total + weight * image[:, row, column], weights + float(weight)
    found = bilateral(image, radius=1, space=1.2, colour=0.3)[:, 3, 3]
    torch.testing.assert_close(found, total / weights)


def test_a_shift_mirrors_what_comes_from_outside() -> None:
    image = torch.arange(8.0).view(1, 1, 8).expand(1, 8, 8) / 8
    moved = affine(image, right=2 / 8, outside="reflection")
    torch.testing.assert_close(moved[0, 0, 2:], image[0, 0, :-2], atol=1e-6, rtol=0)
    torch.testing.assert_close(moved[0, 0, :2], torch.tensor([1 / 8, 0.0]), atol=1e-6, rtol=0)
    assert affine(image, right=2 / 8)[0, 0, 0] == 0
