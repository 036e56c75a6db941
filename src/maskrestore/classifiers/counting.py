"""Count the queries to a black box, and limit them."""

from __future__ import annotations

from torch import Tensor

from maskrestore.errors import ConfigError, QueryBudgetError
from maskrestore.imaging.inputs import as_batch
from maskrestore.types import Classifier

__all__ = ["CountingClassifier"]


class CountingClassifier:
    """Counts the images sent to a classifier; with a budget, it refuses to send more.

    One image is one query. A query counts when it is sent, whether or not an answer comes back. Images that are refused
    as invalid, or because of the budget, are not sent. Not safe to call from several threads.
    """

    def __init__(self, classifier: Classifier, budget: int | None = None) -> None:
        """budget: the largest number of queries, or None for no limit. Raises ConfigError if it is negative."""
        if budget is not None and budget < 0:
            raise ConfigError(f"budget must be 0 or more queries, or None, got {budget}")
        self.classifier = classifier
        self.budget = budget
        self.queries = 0

    @property
    def remaining(self) -> int | None:
        """Queries left in the budget, or None without one."""
        return None if self.budget is None else self.budget - self.queries

    def __call__(self, images: Tensor) -> Tensor:
        """Labels ``(B,)`` int64 of images ``(B, C, H, W)`` in [0, 1].

        Raises QueryBudgetError, before any image is sent, if they do not all fit into the budget; InvalidImageError for
        invalid images; and whatever the classifier raises.
        """
        # A classifier that has a device moves images there itself; other classifiers expect them on the CPU.
        batch = as_batch(images, to_cpu=not hasattr(self.classifier, "device"))
        if self.budget is not None and self.queries + len(batch) > self.budget:
            raise QueryBudgetError(
                f"{len(batch)} more queries would exceed the budget of {self.budget}: "
                f"{self.queries} are spent; raise the budget or send fewer images"
            )
        self.queries += len(batch)
        return self.classifier(batch)
