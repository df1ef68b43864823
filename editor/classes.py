"""Classes of a conditional generator (StyleGAN2-ADA, StyleGAN3): what --class means, and latents drawn of it.

`session.open` notes the class that was asked for on the generator, as `drawn_class`. Where none was, latents are drawn of all classes
evenly: so the prior and the usual distance of faces are those of the whole generator.
"""

import torch
import torch.nn.functional as F

SAMPLES = 4096  # for the mean latent of a class: its standard error is 1.6% of the spread of w


def choose(G, number):
    """Note the class that is asked for, None for none; ValueError where the generator has no such class."""
    count = G.config.c_dim
    if number is not None and not count:
        raise ValueError(f"--class {number}: this generator has no classes; leave the flag out")
    if number is not None and not 0 <= number < count:
        raise ValueError(f"--class {number}: {_there(count)}")
    G.drawn_class = number


def chosen(G):
    """The class that was asked for, or None."""
    return getattr(G, "drawn_class", None)


def require(G):
    """Raise ValueError where a class is needed and none was asked for."""
    if G.config.c_dim and chosen(G) is None:
        raise ValueError(f"a latent is drawn of a class, and {_there(G.config.c_dim)}")


def refuse(G):
    """Raise ValueError where a generator has classes: training knows none."""
    if G.config.c_dim:
        raise ValueError(f"{G.meta['path']}: a generator with classes, which training does not know; convert one without")


def _there(count):
    return f"this generator has {count} class{'es' if count > 1 else ''}: --class 0" + (f" to {count - 1}" if count > 1 else "")


def latents(G, z, evenly=False):
    """z [N, z_dim] -> w [N, w_dim], of the class that was asked for.

    Args:
        evenly: of all classes, whatever was asked for; so also where nothing was. The class of a z is then told by the last bits of
            its first number, which are as good as random: the same on every device, in every thread, and for every order of drawing.
    """
    count = G.config.c_dim
    if not count:
        return G.mapping(z)
    number = None if evenly else chosen(G)
    bits = z[:, 0].detach().float().contiguous().view(torch.int32).long()
    which = bits % count if number is None else torch.full_like(bits, number)
    return G.mapping(z, F.one_hot(which, count).to(z.dtype))


@torch.no_grad()
def mean(G):
    """The mean latent [w_dim]: the checkpoint's; of the class that was asked for, of SAMPLES drawn with seed 0."""
    if chosen(G) is None:
        return G.w_avg.detach()
    return latents(G, torch.randn(SAMPLES, G.config.z_dim, generator=torch.Generator().manual_seed(0)).to(G.w_avg.device)).mean(0)
