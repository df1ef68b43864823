"""Batches of a folder's items, and how they go to what works on them: here, or in other processes (`workers`, `cluster`).

What works on them is an object with `batch(items, tell)`, which tells what `folder.Run.hear` hears, and raises KeyboardInterrupt once
the best so far is kept; where `stopping` is set, it ends so at the next step.
"""

import importlib
from collections import deque

TRIES = 3  # workers in a row that may die before they are open


def opened(opener, args):
    """What works on batches: opener is (module, name of a class), called with args; it has `batch(items, tell)`."""
    module, name = opener
    return getattr(importlib.import_module(module), name)(args)


class Queue:
    """Batches of items for workers that may die: one's batch is tried once more, item by item, so that a bad one costs no neighbour.

    Args:
        done: item -> its figures if it is done by now, else None: what a worker wrote before it died is not done again.
    """

    def __init__(self, batches, done):
        self.waiting, self.done, self.second = deque(batches), done, set()

    def died(self, batch, finished):
        """A worker died over a batch; `finished` are the names of those of it whose outcome is known.

        Returns:
            [(item, its figures, or None where it fails now)], and the names of those that wait for a second time.
        """
        left = [(item, self.done(item)) for item in batch if item.name not in finished]
        again = [item for item, figures in left if figures is None and not (item.name in self.second and len(batch) == 1)]
        names = {item.name for item in again}
        self.second |= names
        self.waiting.extendleft([item] for item in reversed(again))
        return [(item, figures) for item, figures in left if item.name not in names], names


def retried(queue, batch, finished, how, worker, hear):
    """What becomes of the batch of a worker that died: told of, or in the queue again. how: it ended, in words."""
    known, again = queue.died(batch, finished)
    for item, figures in known:
        if figures is None:
            figures = {"error": f"{item.path}: {how}, a second time with it alone", "final": False}
            hear(worker, "outcome", item, "failed", figures)
        else:
            hear(worker, "outcome", item, "done", figures)
    hear(worker, "batch", [item for item in batch if item.name not in again])


def unless(why, figures):
    """item -> figures(item) where why(item) is None: it is done; else None."""

    def done(item):
        try:
            return figures(item) if why(item) is None else None
        except (ValueError, OSError):
            return None

    return done


def of(items, size):
    """Lists of so many items, one after the other."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def alone(work, waiting, hear):
    """Work on batches in this process: the same that each worker does (`workers`, `cluster`)."""
    for batch in waiting:
        work.batch(batch, lambda *words: hear(0, *words))
        hear(0, "batch", batch)
