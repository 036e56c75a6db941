"""Notice a classifier that answers differently when it is asked about the very same picture again."""

from __future__ import annotations

import warnings

__all__ = ["Agreement"]

_MOST = 2**14
"""Pictures that are remembered, the latest: about two megabytes."""


class Agreement:
    """Remembers the labels of the pictures of a run, and warns once if one of them gets another label later.

    It sends no query: it compares the labels of equal images that a run holds anyway. Not safe for several threads.
    """

    def __init__(self) -> None:
        self._labels: dict[int, int] = {}
        self._warned = False

    def check(self, content: int, label: int) -> None:
        """Compare with the label of an earlier picture of the same content, a number that stands for all its pixels."""
        before = self._labels.setdefault(content, label)
        if before != label and not self._warned:
            self._warned = True
            warnings.warn(
                f"the classifier answers differently about the very same picture: first {before}, now {label}. Such "
                "answers cannot be replayed, and labels that flip by chance look like traces of a trigger. Is there "
                "dropout, an augmentation, or more than one model behind the address?",
                stacklevel=2,
            )
        if len(self._labels) > _MOST:
            del self._labels[next(iter(self._labels))]
