import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.profiler import profile

from maskrestore.classifiers import ModuleClassifier
from maskrestore.errors import ClassifierOutputError, ConfigError, InvalidImageError


class Notes(list[Any]):
    """A list that copies of a module share."""

    def __deepcopy__(self, memo: object) -> "Notes":
        return self


class Probe(nn.Module):
    """Keeps what it is given; answers channel means."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Notes()
        self.trained = Notes()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        self.trained.append(self.training)
        return images.mean(dim=(2, 3))


def settled(classify: ModuleClassifier, probe: Probe | None = None) -> ModuleClassifier:
    """After its first call, in which it also tries a layout."""
    classify(pictures(1))
    if probe is not None:
        probe.seen.clear()
    return classify


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
    settled(ModuleClassifier(probe, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0), micro_batch=2), probe)(images)
    expected = torch.stack([(images[:, 0] - 0.1) / 0.5, images[:, 1] - 0.2, (images[:, 2] - 0.3) / 2], dim=1)
    torch.testing.assert_close(probe.seen[0], expected)
    settled(ModuleClassifier(probe, mean=0.5, std=torch.tensor(0.25), micro_batch=2), probe)(images)
    torch.testing.assert_close(probe.seen[0], (images - 0.5) / 0.25)
    settled(ModuleClassifier(probe, micro_batch=2), probe)(images)
    assert torch.equal(probe.seen[0], images)


def test_the_module_sees_one_batch_shape_only_in_channels_last() -> None:
    probe = Probe()
    classify = settled(ModuleClassifier(probe, micro_batch=4), probe)
    for count in (1, 4, 9):
        classify(pictures(count))
    assert [len(seen) for seen in probe.seen] == [4] * 5
    assert all(seen.is_contiguous(memory_format=torch.channels_last) for seen in probe.seen)


def test_unless_told_otherwise_a_call_is_filled_up_to_a_multiple_of_eight() -> None:
    probe = Probe()
    classify = settled(ModuleClassifier(probe), probe)
    for count in (1, 8, 9):
        assert classify(pictures(count)).shape == (count,)
    assert [len(seen) for seen in probe.seen] == [8] * 4
    # Larger ones are for devices on which small batches are slow.
    assert ModuleClassifier(network(), device="meta").micro_batch == 32


def test_logits_are_bit_identical_regardless_of_the_batch() -> None:
    module = network()
    logits: list[Tensor] = []
    module.register_forward_hook(lambda *call: logits.append(call[2].clone()))
    classify = settled(ModuleClassifier(module, micro_batch=8))
    logits.clear()
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
    assert set(dtypes) == {torch.bfloat16}
    dtypes.clear()
    ModuleClassifier(module, micro_batch=4)(pictures(3))
    assert set(dtypes) == {torch.float32}
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


def test_in_bfloat16_weights_are_cast_once_a_call() -> None:
    classify = settled(
        ModuleClassifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)), precision="bfloat16", micro_batch=2)
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
        (torch.zeros(4, 1), "--threshold"),
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


class Tutorial(nn.Module):
    """Flattens by ``view``, as the network of the PyTorch tutorial does: it fails on inputs in channels_last."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 6, 5), nn.BatchNorm2d(6)
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(6 * 12 * 12, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.dropout(torch.relu(self.norm(self.conv(images))))
        return self.head(features.view(len(images), -1))


def described(module: nn.Module) -> dict[str, object]:
    return {
        name: (value.clone(), value.stride(), value.dtype, value.requires_grad, value.grad)
        for name, value in [*module.named_parameters(), *module.named_buffers()]
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("training", [False, True])
def test_a_module_stays_as_it_was_found(channels: int, training: bool) -> None:
    torch.manual_seed(3)
    module = Tutorial(channels).train(training)
    module.norm.eval()  # parts may have modes of their own
    images = pictures(5)[:, :channels]
    before, modes = described(module), [one.training for one in module.modules()]
    state = torch.random.get_rng_state()
    classify = ModuleClassifier(module, micro_batch=4)
    labels = classify(images)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [one.training for one in module.modules()] == modes
    for name, (value, *rest) in described(module).items():
        assert torch.equal(value, before[name][0]), name  # type: ignore[index]
        assert rest == list(before[name][1:]), name  # type: ignore[index]
    assert torch.equal(labels, copy.deepcopy(module).eval()(images).argmax(dim=1))
    module(images[:2]).sum().backward()  # its owner may go on training it
    assert module.conv.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_module_of_any_floating_dtype_works(dtype: torch.dtype) -> None:
    module = network().eval()
    images = pictures(6)
    expected = module(images).argmax(dim=1)
    labels = ModuleClassifier(copy.deepcopy(module).to(dtype), micro_batch=6)(images)
    assert (labels == expected).float().mean() >= 5 / 6  # half precision may decide a near tie otherwise


class Uncopyable(Tutorial):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("holds a handle")


def test_a_module_that_cannot_be_copied_runs_itself_and_keeps_its_mode() -> None:
    module = Uncopyable().train()
    classify = ModuleClassifier(module, micro_batch=4)
    labels = classify(pictures(5))
    assert module.training
    assert module.dropout.training
    assert torch.equal(labels, classify(pictures(5)))  # without dropout
    with pytest.raises(ConfigError, match="cannot be copied"):
        ModuleClassifier(module, device="meta")


def test_an_adapter_can_be_pickled_before_and_after_its_first_call() -> None:
    classify, images = ModuleClassifier(network(), micro_batch=4), pictures(5)
    before = pickle.loads(pickle.dumps(classify))
    labels = classify(images)
    after = pickle.loads(pickle.dumps(classify))
    assert torch.equal(before(images), labels)
    assert torch.equal(after(images), labels)


def test_several_threads_may_make_the_first_call() -> None:
    classify, images = ModuleClassifier(Tutorial(), micro_batch=4), pictures(5)
    found: list[Tensor] = []
    callers = [threading.Thread(target=lambda: found.append(classify(images))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 4
    assert all(torch.equal(labels, found[0]) for labels in found)


def test_a_module_with_weights_that_it_computes_is_copied() -> None:
    module, images = network(), pictures(4)
    prune.l1_unstructured(module[0], "weight", 0.3)  # type: ignore[no-untyped-call,operator,index]
    expected = module.eval()(images).argmax(dim=1)  # from now on a part holds a tensor that deepcopy refuses
    assert expected.any()
    classify = ModuleClassifier(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(classify(images), expected)


def test_a_module_without_weights_is_refused() -> None:
    with torch.device("meta"):
        module = network()
    with pytest.raises(ConfigError, match="on the device meta: it has no weights; load them first"):
        ModuleClassifier(module)
