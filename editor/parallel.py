"""Small generators on a CPU: each image in a thread of its own, since a network of 128 pixels keeps no two cores busy.

Measured (benchmarks/README.md): two images in two threads take 0.6 of the time of one after the other with two threads each. An
image is computed by one thread whatever runs beside it, so that its bytes do not depend on the others.
"""

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import torch


def images(embed, goal, callback=None, show=None):
    """Embed each image of a goal.

    Args:
        embed: (goal of one image, callback, show) -> yields (0, 1, projection.Projection), as `Session.embed` does for one image.
        goal: a `projection.Goal` of N images.
        callback: called with (steps done of all images, losses). show: with (number of the image, step, image).

    Yields:
        (i, i + 1, Projection) for i = 0 .. N - 1; after Ctrl-C those that were begun, `interrupted` where it stopped them.
    """
    count = len(goal.image)
    done, lock, stop = [0] * count, threading.Lock(), threading.Event()

    def work(i):
        def heard(steps, losses):
            if stop.is_set():
                raise KeyboardInterrupt  # the optimiser keeps the best so far
            with lock:
                done[i] = steps
                if callback:
                    callback(sum(done), losses)

        def seen(_, step, image):
            with lock:
                show(i, step, image)

        if stop.is_set():
            raise CancelledError
        found = next(iter(embed(goal.part(i, i + 1), heard, seen if show else None)))[2]
        if found.interrupted:  # whatever stopped it, no other image begins
            stop.set()
        return found

    pool = ThreadPoolExecutor(min(torch.get_num_threads(), count), initializer=torch.set_num_threads, initargs=(1,))
    try:
        waiting, stopped = [pool.submit(work, i) for i in range(count)], None
        told = False  # whether an image says that it was interrupted
        for i, one in enumerate(waiting):
            found = None
            while found is None:
                try:
                    found = one.result()
                except CancelledError:
                    break
                except KeyboardInterrupt as error:
                    if stopped:
                        raise
                    stopped = error
                    stop.set()
            if found is not None:
                if found.interrupted:
                    found.interrupted = stopped or found.interrupted
                told = told or found.interrupted is not None
                yield i, i + 1, found
        if stopped and not told:
            raise stopped
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
