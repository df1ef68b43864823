"""The state of a training on disk: what a stopped or killed run goes on from, and seeds that make it the run that it would have been."""

import hashlib
import pickle
from contextlib import contextmanager

import torch

from editor import files


def seed(*what):
    """A seed for PyTorch, 0 to 2^63 - 1, made of the run's seed and what is drawn, such as a step's number; unlike for all that differs.

    A run that draws by it needs nothing of the steps before: it goes on as if it had never stopped.
    """
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "big") >> 1


def pictures_word(pictures):
    """A word for training pictures uint8 [N, 3, R, R], other for others: made of their number and of 64 of them."""
    few = torch.linspace(0, len(pictures) - 1, min(len(pictures), 64)).long()
    return hashlib.sha256(repr(tuple(pictures.shape)).encode() + pictures[few].numpy().tobytes()).hexdigest()[:16]


def require_same(state, run):
    """Raise ValueError unless a state is of a run like this one.

    Without it a state of other pictures is gone on with, and where its steps are done, it is the result.

    Args:
        run: {flag: what the state must have been made with, or a number for it}; a state's own lies under "run". States of older
            versions do not say it.
    """
    other = [flag for flag, value in state.get("run", run).items() if run.get(flag, value) != value]
    if other:
        raise ValueError(f"it is of a run with another {', another '.join(other)}")


def save(path, state):
    """Write a state, a dict of tensors, numbers and such dicts; whole, or the one before stays.

    Raises:
        OSError: it cannot be written (a full disk, ...).
    """
    with files.atomic(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # PyTorch does not pass on what the system said
            raise OSError(" ".join(str(error).split())[:200]) from None  # `atomic` asks whether the disk is full


@contextmanager
def reading(path):
    """While a state is read from `path` and put into networks: what shows that it is none, or another's, becomes one ValueError."""
    try:
        yield
    except (RuntimeError, KeyError, TypeError, AttributeError, IndexError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) and error.args else " ".join(str(error).split())
        if "weights_only" in reason:  # PyTorch's own words advise to load it without protection
            reason = "no file of PyTorch, or one that holds more than numbers"
        message = f"{path}: this run cannot go on from there: {reason[:300] or type(error).__name__}"
        raise ValueError(f"{message}; give the flags of its first run, or remove the file to start anew") from None


def load(path, device="cpu"):
    """Read a state. Use it inside `reading`."""
    state = torch.load(path, weights_only=True, map_location=device)
    if not isinstance(state, dict):
        raise TypeError(f"holds a {type(state).__name__}, not a state of a training")
    return state
