"""Each image in a thread of its own (editor/parallel.py)."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from editor import cli, parallel, projection, session, settings

COUNT = 4


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def names():
    return [thread.name for thread in threading.enumerate() if "ThreadPool" in thread.name]


def steps_of(begun, steps=300, failing=None, ending=None):
    """An `embed` of so many steps of a few milliseconds, that knows its image by a number in its pixels and ends as `descend` does."""

    def embed(goal, callback, show):
        number = int(goal.image[0, 0, 0, 0])
        begun.append(number)
        found = SimpleNamespace(number=number, interrupted=None, threads=torch.get_num_threads())
        if number == failing:
            raise ValueError("image 1 is bad")
        try:
            for step in range(steps):
                if ending and step == 5:
                    ending(number)
                time.sleep(0.002 * (COUNT - number))  # the first takes longest
                callback(step + 1, torch.ones(1))
        except KeyboardInterrupt as error:
            found.interrupted = error
        yield 0, 1, found

    return embed


@pytest.fixture
def goal():
    return projection.Goal(torch.arange(float(COUNT)).view(-1, 1, 1, 1).expand(COUNT, 3, 2, 2))


def test_results_come_in_order_and_steps_are_summed(goal, two_threads):
    begun, heard = [], []
    found = list(parallel.images(steps_of(begun, 5), goal, lambda steps, _: heard.append(steps)))
    assert [(first, last, one.number) for first, last, one in found] == [(i, i + 1, i) for i in range(COUNT)]
    assert heard == list(range(1, 5 * COUNT + 1)) and sorted(begun) == list(range(COUNT)) and not names()
    assert {one.threads for *_, one in found} == {1} and torch.get_num_threads() == 2


def test_the_bytes_do_not_depend_on_what_runs_beside(small_G, two_threads):
    torch.manual_seed(0)
    images = torch.rand(3, 3, 16, 16)
    opened = session.Session(small_G, torch.device("cpu"), torch.float32, perceptual="none", compile="off")
    tuned, config = settings.Tuning(steps=4), settings.Config(iteration=4, noise_iteration=3, lambda_percep=0)

    def embedded(goal):
        return [found for *_, found in opened.embed(goal, config, tuned=tuned)]

    together = embedded(projection.Goal(images))
    for i, one in enumerate(together):
        (alone,) = embedded(projection.Goal(images[i : i + 1]))
        assert torch.equal(alone.ws, one.ws) and all(map(torch.equal, alone.noise, one.noise)) and one.steps == 11
        assert all(torch.equal(alone.tuned[0][name], value) for name, value in one.tuned[0].items())
    with_one = torch.get_num_threads()
    torch.set_num_threads(1)
    (alone,) = embedded(projection.Goal(images[:1]))
    torch.set_num_threads(with_one)
    assert torch.equal(alone.ws, together[0].ws)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, cli.Terminated])
def test_ctrl_c_keeps_what_was_begun_and_leaves_out_the_rest(goal, two_threads, kind, monkeypatch):
    """In the main thread, where signals arrive, while it waits for the first image."""
    begun, real, asked = [], parallel.ThreadPoolExecutor, []

    class Pool(real):
        def submit(self, *words):
            future, result = super().submit(*words), None
            result = future.result

            def interrupted():
                if not asked:
                    asked.append(1)
                    time.sleep(0.05)
                    raise kind
                return result()

            future.result = interrupted
            return future

    monkeypatch.setattr(parallel, "ThreadPoolExecutor", Pool)
    found = list(parallel.images(steps_of(begun), goal))
    assert sorted(begun) == [0, 1] and [one.number for *_, one in found] == [0, 1] and not names()
    assert all(type(one.interrupted) is kind for *_, one in found)


def test_ctrl_c_after_the_last_of_those_begun_is_not_lost(goal, monkeypatch):
    begun, real, asked = [], parallel.ThreadPoolExecutor, []

    class Pool(real):
        def submit(self, *words):
            future = super().submit(*words)
            result = future.result

            def interrupted():
                found = result()
                if not asked:
                    asked.append(1)
                    raise cli.Terminated
                return found

            future.result = interrupted
            return future

    monkeypatch.setattr(parallel, "ThreadPoolExecutor", Pool)
    with pytest.raises(cli.Terminated):
        for _ in parallel.images(steps_of(begun, 0), goal):
            pass
    assert not names()


def test_an_image_that_is_stopped_stops_those_not_begun(goal, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    begun = []

    def stop(number):
        if number == 1:
            raise KeyboardInterrupt

    found = list(parallel.images(steps_of(begun, 10, ending=stop), goal))
    torch.set_num_threads(before)
    assert begun == [0, 1] and [one.interrupted is not None for *_, one in found] == [False, True]


def test_an_images_error_reaches_the_caller(goal, two_threads):
    begun, found = [], []
    with pytest.raises(ValueError, match="image 1 is bad"):
        for _, _, one in parallel.images(steps_of(begun, 5, failing=1), goal):
            found.append(one.number)
    assert found == [0] and not names()


def test_show_names_the_image(goal):
    seen = []

    def embed(part, callback, show):
        show(0, 7, part.image)
        yield 0, 1, SimpleNamespace(interrupted=None)

    list(parallel.images(embed, goal, None, lambda i, step, image: seen.append((i, step, int(image[0, 0, 0, 0])))))
    assert sorted(seen) == [(i, 7, i) for i in range(COUNT)]


def test_ctrl_c_while_a_result_is_written_loses_no_other(goal, two_threads):
    """The consumer passes it on: the next image, which runs by then, comes with what it has; none begins."""
    begun = []
    parts = parallel.images(steps_of(begun), goal)
    first = next(parts)
    error = KeyboardInterrupt()
    second = parallel.thrown_in(parts, error)
    assert (first[0], second[0]) == (0, 1) and first[2].interrupted is None
    rest = list(parts)
    assert all(one.interrupted is error for *_, one in rest) and len(rest) + 2 == len(begun) and not names()
    assert parallel.thrown_in(iter(x for x in ()), error) is None
