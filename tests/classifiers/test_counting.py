import pytest
import torch

from fakes import colour_labels, plain_images
from maskrestore.classifiers import CountingClassifier
from maskrestore.errors import ConfigError, InvalidImageError, QueryBudgetError


def test_images_are_counted() -> None:
    counting = CountingClassifier(colour_labels)
    for count in (3, 1, 5):
        counting(plain_images(count))
    assert counting.queries == 9
    assert counting.remaining is None


def test_the_budget_stops_before_the_query_that_exceeds_it() -> None:
    seen: list[int] = []

    def classifier(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return colour_labels(images)

    counting = CountingClassifier(classifier, budget=5)
    counting(plain_images(3))
    with pytest.raises(QueryBudgetError, match="3 more queries would exceed the budget of 5: 3 are spent"):
        counting(plain_images(3))
    assert (seen, counting.queries, counting.remaining) == ([3], 3, 2)
    counting(plain_images(2))  # exactly to the limit
    with pytest.raises(QueryBudgetError):
        counting(plain_images(1))
    assert (seen, counting.queries, counting.remaining) == ([3, 2], 5, 0)


def test_a_query_counts_once_it_is_sent() -> None:
    def offline(images: torch.Tensor) -> torch.Tensor:
        raise ConnectionError

    counting = CountingClassifier(offline)
    with pytest.raises(ConnectionError):
        counting(plain_images(4))
    assert counting.queries == 4
    with pytest.raises(InvalidImageError):
        counting(torch.full((2, 3, 4, 4), 7.0))
    assert counting.queries == 4


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="-1"):
        CountingClassifier(colour_labels, budget=-1)
