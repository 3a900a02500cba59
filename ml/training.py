"""How models of each kind are trained, of decisions and of numbers alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from functools import partial

from ml.catalogue import KINDS
from ml.estimate_training import train_estimate
from ml.estimates import ESTIMATES
from ml.models import Trained, train

#: What models can be trained for.
TRAINABLE: Collection[str] = (*KINDS, *ESTIMATES)


def trainer(kind: str) -> Callable[..., Awaitable[Trained]]:
    """What trains models of a kind: ``ml.models.train`` or ``train_estimate``, which are asked
    alike.

    Raises:
        KeyError: there is no such kind.
    """
    if kind in ESTIMATES:
        return partial(train_estimate, estimate=ESTIMATES[kind])
    return partial(train, kind=KINDS[kind])
