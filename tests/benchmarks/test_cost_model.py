import pytest
import torch
from benchmarks.cost_model import embedding_flop, full_pass, restoring_pass
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from maskrestore.mae.vit import ViTMAE
from maskrestore.mae.vit_config import VIT_PRESETS, ViTMAEConfig

SMALL = ViTMAEConfig(
    image_size=32, patch_size=4, width=48, depth=3, heads=3, decoder_width=32, decoder_depth=2, decoder_heads=2
)


@pytest.mark.parametrize("visible", [0, 16, 60])
def test_the_model_counts_what_torch_counts(visible: int) -> None:
    network = ViTMAE(SMALL).eval()
    hidden = (torch.arange(64) >= visible).view(1, 8, 8)
    images = torch.rand(1, 3, 32, 32)

    def counted(function: object, **arguments: torch.Tensor) -> int:
        # The plain kernel is matrix products, which torch knows how to count.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            function(images, hidden, **arguments)  # type: ignore[operator]
        return counter.get_total_flops()

    assert counted(network.predict) == full_pass(SMALL, visible).total
    assert counted(network, tokens=network.embed(images)) == restoring_pass(SMALL, visible).total
    assert counted(network) == restoring_pass(SMALL, visible).total + embedding_flop(SMALL)


def test_a_scoring_pass_of_vit_b_takes_about_19_gflop() -> None:
    cost = full_pass(VIT_PRESETS["base"], 49)
    assert cost.encoder == pytest.approx(8.8e9, rel=0.03)
    assert cost.decoder == pytest.approx(10.4e9, rel=0.05)
