import pytest
import torch
from torch import Tensor, nn
from torch.profiler import profile

from maskrestore.classifiers import ModuleClassifier
from maskrestore.errors import ClassifierOutputError, ConfigError, InvalidImageError


class Probe(nn.Module):
    """Keeps what it is given; answers channel means."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.trained: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        self.trained.append(self.training)
        return images.mean(dim=(2, 3))


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
            nn.Conv2d(24, 40, 3, stride=2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(160, 10),
        )  # fmt: skip


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_normalisation_per_channel() -> None:
    probe, images = Probe(), pictures(2)
    ModuleClassifier(probe, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0), micro_batch=2)(images)
    expected = torch.stack([(images[:, 0] - 0.1) / 0.5, images[:, 1] - 0.2, (images[:, 2] - 0.3) / 2], dim=1)
    torch.testing.assert_close(probe.seen[0], expected)
    ModuleClassifier(probe, mean=0.5, std=torch.tensor(0.25), micro_batch=2)(images)
    torch.testing.assert_close(probe.seen[1], (images - 0.5) / 0.25)
    ModuleClassifier(probe, micro_batch=2)(images)
    assert torch.equal(probe.seen[2], images)


def test_the_module_sees_one_batch_shape_only_in_channels_last() -> None:
    probe = Probe()
    classify = ModuleClassifier(probe, micro_batch=4)
    for count in (1, 4, 9):
        classify(pictures(count))
    assert [len(seen) for seen in probe.seen] == [4] * 5
    assert all(seen.is_contiguous(memory_format=torch.channels_last) for seen in probe.seen)


def test_unless_told_otherwise_a_call_is_filled_up_to_a_multiple_of_eight() -> None:
    probe = Probe()
    classify = ModuleClassifier(probe)
    for count in (1, 8, 9):
        assert classify(pictures(count)).shape == (count,)
    assert [len(seen) for seen in probe.seen] == [8] * 4
    # Larger ones are for devices on which small batches are slow.
    assert ModuleClassifier(network(), device="meta").micro_batch == 32


def test_logits_have_the_same_bits_in_any_company() -> None:
    module = network()
    logits: list[Tensor] = []
    module.register_forward_hook(lambda *call: logits.append(call[2].clone()))
    classify = ModuleClassifier(module, micro_batch=8)
    images = pictures(21)
    classify(images)
    together = torch.cat(logits)[:21]
    for row in range(21):
        logits.clear()
        classify(images[row : row + 1])
        assert torch.equal(logits[0][0], together[row])
    order = torch.randperm(21, generator=torch.Generator().manual_seed(0))
    logits.clear()
    classify(images[order])
    assert torch.equal(torch.cat(logits)[:21], together[order])


def test_dropout_and_batch_statistics_are_off_even_after_training() -> None:
    module, images = network(), pictures(6)
    classify = ModuleClassifier(module, micro_batch=4)
    first = classify(images)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.train()
    assert torch.equal(classify(images), first)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_labels_are_ordinary_tensors() -> None:
    labels = ModuleClassifier(network())(pictures(3))
    labels += 1  # an inference tensor would refuse
    assert not labels.is_inference()


def test_bfloat16_runs_the_module_in_bfloat16_and_leaves_its_weights() -> None:
    module = network()
    dtypes: list[torch.dtype] = []
    module[3].register_forward_hook(lambda *call: dtypes.append(call[2].dtype))
    ModuleClassifier(module, precision="bfloat16", micro_batch=4)(pictures(3))
    ModuleClassifier(module, micro_batch=4)(pictures(3))
    assert dtypes == [torch.bfloat16, torch.float32]
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


def test_in_bfloat16_weights_are_cast_once_a_call() -> None:
    classify = ModuleClassifier(
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)), precision="bfloat16", micro_batch=2
    )
    with profile(record_shapes=True) as seen:
        classify(pictures(6))
    casts = {tuple(event.input_shapes[0]): event.count for event in seen.key_averages(group_by_input_shape=True)
             if event.key == "aten::_to_copy"}  # fmt: skip
    assert casts[(4, 3 * 16 * 16)] == 1
    assert casts[(2, 3 * 16 * 16)] == 3  # what the layer is given


class Answering(nn.Module):
    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> object:
        return self.answer


def test_a_module_may_answer_labels() -> None:
    assert ModuleClassifier(Answering(torch.tensor([3, 1, 2])), micro_batch=3)(pictures(2)).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(2, 10), r"shape \(4, K\)"),
        (torch.zeros(4, 1), "K >= 2"),
        (torch.full((4, 10), float("nan")), "NaN"),
        (torch.zeros(4), "return integers"),
    ],
)
def test_other_answers_are_refused(answer: Tensor, message: str) -> None:
    with pytest.raises(ClassifierOutputError, match=message):
        ModuleClassifier(Answering(answer), micro_batch=4)(pictures(3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"micro_batch": 0}, "micro_batch must be at least 1, got 0"),
        ({"precision": "float16"}, "float16"),
        ({"std": 0.0}, "positive"),
        ({"std": (0.2, -0.2, 0.2)}, "positive"),
        ({"mean": float("nan")}, "nan"),
        ({"mean": (123.7, 116.3, 103.5)}, "divide both by 255"),
        ({"mean": (0.5, 0.5)}, "got 2 and 1"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5)}, "got 3 and 2"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModuleClassifier(Probe(), **settings)  # type: ignore[arg-type]


def test_pixels_out_of_range_are_refused() -> None:
    probe, images = Probe(), pictures(3)
    images[2, 0, 0, 0] = 1.5
    with pytest.raises(InvalidImageError, match=r"expected floating-point pixels in \[0, 1\]"):
        ModuleClassifier(probe)(images)
    assert not probe.seen


def test_three_means_need_three_channels() -> None:
    with pytest.raises(InvalidImageError, match="for 3 channels, got images with 1"):
        ModuleClassifier(Probe(), mean=(0.5, 0.5, 0.5))(torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize("labels", [False, True])
def test_a_module_may_use_its_output_buffer_again(labels: bool) -> None:
    class Reuses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = torch.zeros(2, dtype=torch.long) if labels else torch.zeros(2, 3)

        def forward(self, images: Tensor) -> Tensor:
            classes = images[:, 0, 0, 0].long()
            self.output.copy_(classes if labels else nn.functional.one_hot(classes, 3))
            return self.output

    images = torch.tensor([1.0, 0, 0, 1, 1, 0, 1]).view(7, 1, 1, 1).expand(-1, 3, 4, 4)
    assert ModuleClassifier(Reuses(), micro_batch=2)(images).tolist() == [1, 0, 0, 1, 1, 0, 1]


def test_nan_is_noticed_in_any_part_of_a_call() -> None:
    class Fails(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([images[:, 0, 0, 0], 0 / (images[:, 0, 0, 0] - 1)], dim=1)

    images = torch.zeros(9, 3, 4, 4)
    classify = ModuleClassifier(Fails(), micro_batch=4)
    assert classify(images).tolist() == [0] * 9
    for place in (0, 5, 8):
        with pytest.raises(ClassifierOutputError, match="NaN"):
            classify(torch.cat([images[:place], torch.ones(1, 3, 4, 4), images[place:]]))


def test_after_labels_gradients_still_pass_the_normalisation() -> None:
    classify = ModuleClassifier(nn.Flatten(), mean=0.123, std=0.456)
    images = torch.rand(2, 3, 4, 4)
    classify(images)
    classify.normalise(images.requires_grad_()).sum().backward()
    assert images.grad is not None
    assert torch.allclose(images.grad, torch.full_like(images, 1 / 0.456))
