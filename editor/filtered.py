"""The fast way of StyleGAN3's layer; the plain one stands in stylegan3_layers.py, and tests/test_stylegan3.py holds this one to it.

Between the two filters around its leaky ReLU a map has four to sixteen times the pixels of what comes in and goes out: gigabytes at
1024. Here an image passes a few channels at a time, and the backward pass computes the values between once more instead of keeping them.

A FIR filter along one side is a product with a banded matrix, whose bands are all alike but for a shift. So a side is cut into tiles,
and all tiles of all channels are one product with one small matrix: no zeros are put in, nothing is computed that is left out
afterwards, and tiles overlap by their strides, without a copy. Two steps make all passes:

    rise: [C, S, S] -> [C, T, T], from one sample to `factor`: up-sampling, and the way back of down-sampling
    fall: [C, T, T] -> [C, S, S], from `factor` samples to one: down-sampling, and the way back of up-sampling
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from editor.fast_conv import channel_sums, linear

ACROSS, DOWN = 32, 16  # samples at the high rate in a tile, of a row and of a column (measured)
CHUNK = {"cpu": 1 << 20}  # values at the high rate that are worked on at a time (measured); elsewhere MANY
MANY = 1 << 26
NEGLIGIBLE = 3e-8  # of the largest: singular values of a filter below float32's rounding


def usable(sampling, x):
    """Whether a layer may take the fast way: its tiles come out even, and it is not being compiled (which fuses by itself)."""
    even = all(DOWN % factor == 0 for factor in (sampling.up, sampling.down))
    return even and x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()


# ---------------------------------------------------------------------------------------------------------------------
# Filters as products of matrices


def band(taps, up, down, low, tile):
    """The matrix of one tile, and where its input begins: y[o] = sum over t of taps[t] p[o down + t], where p is x with up - 1 zeros after
    each sample, after `low` zeros.

    Returns:
        [K, tile / down], and j: the tile of outputs 0, 1, ... needs x[j] to x[j + K - 1], the next one tile / up more.
    """
    first = -(low // up)
    rest = first * up + low  # of the zeros, 0 to up - 1
    outputs = tile // down
    k = ((outputs - 1) * down + len(taps) - 1 - rest) // up + 1
    t = torch.arange(k)[:, None] * up + rest - torch.arange(outputs) * down  # [K, tile / down]
    return torch.where((t >= 0) & (t < len(taps)), taps[t.clamp(0, len(taps) - 1)], 0), first


@dataclass(frozen=True)
class Pass:
    """A filter on its way up (`up` > 1) or down, for both sides.

    pieces: pairs of matrices, for the columns [tile / down, K] and for the rows [K, tile / down]; the filter is the sum of their products.
    first: where the input of output 0 begins.
    """

    pieces: tuple
    first: int
    up: int
    down: int


def passing(taps, up, down, low, like):
    """The `Pass` of taps [k], or [k, k] (symmetric), float64, with `low` zeros before."""
    if taps.ndim == 1:
        pairs = [(taps, taps)]
    else:  # a radial filter of 12 taps is the sum of 3 or 4 that go down and across: its singular values fall fast
        values, vectors = torch.linalg.eigh(taps)
        pairs = [(v * value, v) for value, v in zip(values, vectors.T, strict=True) if abs(value) > NEGLIGIBLE * values.abs().max()]
    made = [(band(a, up, down, low, DOWN), band(b, up, down, low, ACROSS)) for a, b in pairs]
    pieces = tuple((columns.T.contiguous().to(like), rows.to(like)) for (columns, _), (rows, _) in made)
    return Pass(pieces, made[0][0][1], up, down)


def across(flat, count, step, block, out, beta):
    """Tiles of `step` samples, one after the other in flat memory, each with what follows it times block [K, B] -> out [count, B]."""
    for at in range(0, len(block), step):
        part = block[at : at + step]
        out.addmm_(flat.as_strided((count, len(part)), (step, 1), at), part, beta=1 if at else beta)


def along(flat, count, step, block, width, out, beta):
    """Tiles of `step` rows of `width`, one after the other in flat memory: block [B, K] times each with what follows -> out."""
    tiles = flat.as_strided((count, block.shape[1], width), (step * width, width, 1))
    out.baddbmm_(block.expand(count, -1, -1), tiles, beta=beta)


def memory(like, values, beyond):
    """Flat memory for so many values, and zeros beyond them: what the last tile reads must be finite."""
    flat = like.new_empty(values + beyond)
    flat[values:] = 0
    return flat


def rise(x, way, size, out):
    """x [C, S, S] -> the first C size^2 values of `out`."""
    (c, side, _), need, before, beta = x.shape, size // way.up, -way.first, 0
    flat = x.new_zeros(c * need * need + ACROSS)
    a, b = max(before, 0), min(before + side, need)
    flat[: c * need * need].view(c, need, need)[:, a:b, a:b] = x[:, a - before : b - before, a - before : b - before]
    wide = memory(x, c * need * size, ACROSS * size)
    for columns, rows in way.pieces:
        across(flat, c * need * size // ACROSS, ACROSS // way.up, rows, wide[: c * need * size].view(-1, ACROSS), 0)  # [C, need, size]
        along(wide, c * size // DOWN, DOWN // way.up, columns, size, out[: c * size * size].view(-1, DOWN, size), beta)
        beta = 1


def fall(flat, c, way, size):
    """The first C size^2 values of flat memory -> [C, size / down, size / down]."""
    less, beta = size // way.down, 0
    low, y = memory(flat, c * less * size, ACROSS), flat.new_empty(c, less, less)
    for columns, rows in way.pieces:
        along(flat, c * size // DOWN, DOWN, columns, size, low[: c * less * size].view(-1, DOWN // way.down, size), 0)  # [C, less, size]
        across(low, c * less * size // ACROSS, ACROSS, rows, y.view(-1, ACROSS // way.down), beta)
        beta = 1
    return y


# ---------------------------------------------------------------------------------------------------------------------
# The filtered leaky ReLU


@dataclass(frozen=True)
class Plan:
    """The passes of a layer, forward (up, down; `size` is T) and backward: `again` as `up`, shifted so that `back` begins where it does."""

    up: Pass
    down: Pass
    size: int
    again: Pass
    back_up: Pass
    back_down: Pass
    back_size: int
    gain: float  # what the filters up can make of the largest value, at most


@functools.lru_cache(maxsize=64)
def plan(sampling, dtype, device):
    """The `Plan` of a stylegan3_layers.Sampling."""
    like = torch.empty(0, dtype=dtype, device=device)
    up, down, rise_taps, fall_taps = sampling.up, sampling.down, sampling.up_filter * sampling.up, sampling.down_filter
    low, taps, more = sampling.padding[0], len(rise_taps), len(fall_taps)
    shift = taps - 1 - low  # where the way back down begins, before the first value

    def whole(size, taps):
        return ACROSS * math.ceil((size + taps) / ACROSS)

    phases = F.pad(rise_taps.abs(), (0, -taps % up)).view(-1, up).sum(0)
    return Plan(
        passing(rise_taps, up, 1, low, like),
        passing(fall_taps, 1, down, 0, like),
        whole((sampling.out_size - 1) * down + more, taps),
        passing(rise_taps, up, 1, low + shift, like),
        passing(fall_taps, down, 1, more - 1 + shift, like),
        passing(rise_taps, 1, up, 0, like),
        whole((sampling.size - 1) * up + taps, max(taps, more)),
        float(phases.max()) ** 2,
    )


class FilteredLeakyReLU(torch.autograd.Function):
    """x [N, C, S, S], bias [C, 1, 1] -> [N, C, S', S']; x is the only large tensor kept."""

    @staticmethod
    def forward(ctx, x, bias, sampling, slope, clamp):
        ctx.save_for_backward(x, bias)
        ctx.settings = sampling, slope, clamp
        p, out_size = plan(sampling, x.dtype, x.device), sampling.out_size
        out = x.new_empty(*x.shape[:2], out_size, out_size)
        for (image, part), flat in chunks(x, p.size):
            values = x[image, part] + bias[part]
            rise(values, p.up, p.size, flat)
            F.leaky_relu_(flat, slope)
            if clamp is not None and reaches(values, p.gain, clamp):
                flat.clamp_(-clamp, clamp)
            out[image, part] = fall(flat, len(values), p.down, p.size)[:, :out_size, :out_size]
        return out

    @staticmethod
    def backward(ctx, g):
        (x, bias), (sampling, slope, clamp) = ctx.saved_tensors, ctx.settings
        p, size = plan(sampling, x.dtype, x.device), x.shape[2]
        out, other = torch.empty_like(x), None
        for (image, part), flat in chunks(x, p.back_size):
            values = x[image, part] + bias[part]
            rise(values, p.again, p.back_size, flat)
            other = torch.zeros_like(flat) if other is None else other
            rise(g[image, part], p.back_up, p.back_size, other)
            if clamp is not None and reaches(values, p.gain, clamp):
                other.mul_(F.leaky_relu(flat, slope).abs() <= clamp)
            torch.ops.aten.leaky_relu_backward.grad_input(other, flat, slope, False, grad_input=other)
            out[image, part] = fall(other, len(values), p.back_down, p.back_size)[:, :size, :size]
        return out, (out.sum((0, 2, 3)).view_as(bias) if ctx.needs_input_grad[1] else None), None, None, None


def chunks(x, size):
    """((image, slice of channels), flat memory for their [c, size, size] and zeros beyond) for all of x [N, C, S, S]: never two images."""
    channels = x.shape[1]
    count = min(channels, max(1, CHUNK.get(x.device.type, MANY) // size**2))
    flat = memory(x, count * size * size, ACROSS * size)
    for image in range(len(x)):
        for first in range(0, channels, count):
            yield (image, slice(first, first + count)), flat


def reaches(x, gain, clamp):
    """Whether values may reach the clamp, filters having made `gain` times the largest of x; on a GPU, where asking takes time, yes."""
    return x.is_cuda or not float(x.abs().amax()) * gain <= clamp


def filtered_leaky_relu(x, bias, sampling, slope, clamp):
    """`stylegan3_layers.filtered_leaky_relu` of x + bias."""
    return FilteredLeakyReLU.apply(x, bias, sampling, slope, clamp)


# ---------------------------------------------------------------------------------------------------------------------
# The modulated convolution, of frozen weights


class ModulatedConv(torch.autograd.Function):
    """x [N, I, H, W], style [N, I], demodulation [N, O] above 0, fixed weight [O, I, k, k] -> [N, O, H + k - 1, W + k - 1].

    An image at a time, so that one image's weights and values are there once, and alike in any batch.
    """

    @staticmethod
    def forward(ctx, x, style, demodulation, weight):
        k = weight.shape[2]
        y = x.new_empty(len(x), len(weight), x.shape[2] + k - 1, x.shape[3] + k - 1)
        for i in range(len(x)):
            own = weight * (demodulation[i, :, None] * style[i])[:, :, None, None]
            if k == 1:
                torch.mm(own.flatten(1), x[i].flatten(1), out=y[i].flatten(1))
            else:
                y[i] = F.conv2d(x[i : i + 1], own, padding=k - 1)[0]
        ctx.save_for_backward(x, style, demodulation, weight, y)
        return y

    @staticmethod
    def backward(ctx, g):
        x, style, demodulation, weight, y = ctx.saved_tensors
        k, back = weight.shape[2], torch.empty_like(x)
        for i in range(len(x)):
            own = weight * demodulation[i, :, None, None, None]
            if k == 1:
                torch.mm(own.flatten(1).t(), g[i].flatten(1), out=back[i].flatten(1))
            else:
                back[i] = F.conv_transpose2d(g[i : i + 1], own, padding=k - 1)[0]
        to_style = channel_sums(back, x)[:, :, 0, 0]
        back = back.mul_(style[:, :, None, None]) if ctx.needs_input_grad[0] else None
        return back, to_style, channel_sums(g, y)[:, :, 0, 0] / demodulation, None


def modulated_conv(layer, x, style):
    """The convolution of a frozen stylegan3_layers.FilteredConv, x [N, I, H, W], style [N, I] (the affine layer's)."""
    weight, squares = layer.tensors()[:2]
    if layer.torgb:
        return ModulatedConv.apply(x, style, style.new_ones(len(x), len(weight)), weight)
    style = style * style.square().mean(dim=1, keepdim=True).rsqrt()
    demodulation = layer.gain * (linear(style.square(), squares) + 1e-8).rsqrt()  # [N, O]
    return ModulatedConv.apply(x, style, demodulation, weight)
