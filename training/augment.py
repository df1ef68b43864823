"""Differentiable augmentation (DiffAugment, Zhao et al. 2020), each kind with probability p per image (ADA, Karras et al. 2020)."""

import torch
import torch.nn.functional as F


def augment(x, p=1.0):
    """Colour, translation by up to an eighth, and a cut-out quarter: [N, 3, H, W] -> the same shape, differentiable.

    Args:
        p: probability of each of the three, image by image.
    """

    def some(changed, before):
        return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < p, changed, before)

    def draw(low, high):
        return torch.rand(len(x), 1, 1, 1, device=x.device, dtype=x.dtype) * (high - low) + low

    grey, mean = x.mean(1, keepdim=True), x.mean((1, 2, 3), keepdim=True)
    coloured = (x - grey) * draw(0, 2) + grey
    x = some((coloured - mean) * draw(0.5, 1.5) + mean + draw(-0.5, 0.5), x)
    x = some(_shifted(x), x)
    return some(x * _hole(x), x)


def _shifted(x, share=0.125):
    n, _, h, w = x.shape
    reach = max(1, round(h * share))
    dy, dx = torch.randint(-reach, reach + 1, (2, n), device=x.device)
    padded = F.pad(x, (reach,) * 4)
    rows = torch.arange(h, device=x.device)[None] + dy[:, None] + reach
    columns = torch.arange(w, device=x.device)[None] + dx[:, None] + reach
    return padded[torch.arange(n, device=x.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _hole(x, share=0.5):
    n, _, h, w = x.shape
    side = round(h * share)
    top, left = torch.randint(-side // 2, h - side // 2 + 1, (2, n, 1), device=x.device)
    y, z = torch.arange(h, device=x.device)[None], torch.arange(w, device=x.device)[None]
    inside = ((y >= top) & (y < top + side))[:, :, None] & ((z >= left) & (z < left + side))[:, None, :]
    return (~inside)[:, None].to(x.dtype)
