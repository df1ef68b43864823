"""Small generators on a CPU: each image in a thread of its own, since a network of 128 pixels keeps no two cores busy.

Measured (benchmarks/README.md): two images in two threads take 0.6 of the time of one after the other with two threads each. An
image is computed by one thread whatever runs beside it, so that its bytes do not depend on the others.
"""

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import torch


class Images:
    """Images to embed, and whether to stop."""

    def __init__(self, embed, goal, callback, show):
        self.embed, self.goal, self.callback, self.show = embed, goal, callback, show
        self.done, self.lock, self.stop = [0] * len(goal.image), threading.Lock(), threading.Event()

    def work(self, i):
        """A Projection of image i. Raises CancelledError where it is not to begin any more."""

        def heard(steps, losses):
            if self.stop.is_set():
                raise KeyboardInterrupt  # the optimiser keeps the best so far
            with self.lock:
                self.done[i] = steps
                if self.callback:
                    self.callback(sum(self.done), losses)

        def seen(_, step, image):
            with self.lock:
                self.show(i, step, image)

        if self.stop.is_set():
            raise CancelledError
        found = next(iter(self.embed(self.goal.part(i, i + 1), heard, seen if self.show else None)))[2]
        if found.interrupted:  # whatever stopped it, no other image begins
            self.stop.set()
        return found

    def result(self, one):
        """What a future found, None where it did not begin; and the KeyboardInterrupt that came meanwhile, or None."""
        stopped = None
        while True:
            try:
                return one.result(), stopped
            except CancelledError:
                return None, stopped
            except KeyboardInterrupt as error:
                if stopped:
                    raise
                stopped = error
                self.stop.set()


def images(embed, goal, callback=None, show=None):
    """Embed each image of a goal.

    Args:
        embed: (goal of one image, callback, show) -> yields (0, 1, projection.Projection), as `Session.embed` does for one image.
        goal: a `projection.Goal` of N images.
        callback: called with (steps done of all images, losses). show: with (number of the image, step, image).

    Yields:
        (i, i + 1, Projection) for i = 0 .. N - 1; after Ctrl-C (thrown in, too, by who was writing a result) those that were begun,
        `interrupted` where it stopped them.
    """
    count, every = len(goal.image), Images(embed, goal, callback, show)
    pool = ThreadPoolExecutor(min(torch.get_num_threads(), count), initializer=torch.set_num_threads, initargs=(1,))
    try:
        stopped, told = None, False  # told: whether an image says that it was interrupted
        for i, one in enumerate([pool.submit(every.work, i) for i in range(count)]):
            found, came = every.result(one)
            stopped = stopped or came
            if found is None:
                continue
            if found.interrupted:
                found.interrupted, told = stopped or found.interrupted, True
            try:
                yield i, i + 1, found
            except KeyboardInterrupt as error:
                stopped = stopped or error
                every.stop.set()
        if stopped and not told:
            raise stopped
    finally:
        every.stop.set()
        pool.shutdown(cancel_futures=True)


def thrown_in(parts, error):
    """The next of a generator that is told of a KeyboardInterrupt, or None."""
    try:
        return parts.throw(error)
    except (KeyboardInterrupt, StopIteration):
        return None
