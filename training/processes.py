"""Several processes that train as one: the few words of torch.distributed that a Trainer needs. One process alone says none of them."""

import torch
from torch import distributed


def share(batch, ranks, least=1):
    """Images of a batch that each of `ranks` processes takes.

    Raises:
        ValueError: the processes cannot share the batch evenly, or each gets fewer than `least`.
    """
    if batch % ranks or batch // ranks < least:
        each = f" of {least} images or more each" if least > 1 else ""
        advice = f"a multiple of {ranks}" if least == 1 else f"a multiple of {ranks} from {least * ranks} on"
        raise ValueError(f"--batch {batch}: {ranks} processes share it in even parts{each}; give {advice}")
    return batch // ranks


def total(values, ranks):
    """The sum of a tensor over all processes, in its place; the same number in each of them. Returns it."""
    if ranks > 1:
        distributed.all_reduce(values)
    return values


def average(tensors, ranks):
    """Put the means over all processes in the place of tensors of one number format, with one all-reduce for all of them."""
    if ranks > 1 and tensors:
        flat = total(torch.cat([t.flatten() for t in tensors]), ranks) / ranks
        for t, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(mean.view(t.shape))  # into the tensor as it lies: channels last stays so


def take_from_first(tensors, ranks):
    """Put process 0's values in the place of each tensor."""
    for t in tensors if ranks > 1 else ():
        values = t.detach().clone(memory_format=torch.contiguous_format)
        distributed.broadcast(values, 0)
        t.detach().copy_(values)
