import pytest
import torch
from benchmarks.growth import Stream, growth_by_count, measure, streams

from benchmarks import growth
from maskrestore import MAERestorer
from maskrestore.lab.victims import ResNet18
from maskrestore.mae.conv import ConvMAE, ConvMAEConfig


def test_a_stream_is_made_chunk_by_chunk() -> None:
    chunks = list(Stream(count=10, size=8, chunk=4))
    assert [tuple(chunk.shape) for chunk in chunks] == [(4, 3, 8, 8), (4, 3, 8, 8), (2, 3, 8, 8)]
    assert not torch.equal(chunks[0], chunks[1])


def test_one_number_is_varied_at_a_time() -> None:
    found = streams([16, 64], [32, 48], [1, 8])
    assert [(each.count, each.size, each.chunk) for each in found] == [
        (16, 32, 8),
        (64, 32, 8),
        (16, 48, 8),
        (16, 32, 1),
    ]


def row(count: int, size: int, chunk: int, peak: float) -> dict[str, float]:
    return {"count": count, "size": size, "chunk": chunk, "peak_mib": peak}


@pytest.mark.parametrize(("peak", "bounded"), [(210, True), (221, True), (260, False)])
def test_memory_that_grows_with_the_number_of_images_is_noticed(peak: float, bounded: bool) -> None:
    rows = [row(16, 32, 8, 205), row(640, 32, 8, peak), row(16, 128, 8, 900), row(16, 32, 1, 100), row(4, 32, 8, 90)]
    assert growth_by_count(rows) == (205, peak, bounded)


def test_a_row_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    small = ConvMAE(ConvMAEConfig(image_size=16, widths=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1,)))
    monkeypatch.setattr(growth, "load_restorer", lambda name: MAERestorer(small))
    monkeypatch.setattr(growth, "ResNet18", lambda classes, width: ResNet18(classes, width=4))
    found = measure(Stream(count=2, size=16, chunk=1), "cpu")
    assert found["seconds_per_image"] > 0
    assert found["peak_mib"] > 50
