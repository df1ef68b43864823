"""The fast way of StyleGAN3's layer; the plain one stands in stylegan3_layers.py, and tests/test_stylegan3.py holds this one to it.

Between the two filters around its leaky ReLU a map has four to sixteen times the pixels of what comes in and goes out: gigabytes at
1024. Here an image passes a few channels at a time, and the backward pass computes the values between once more instead of keeping them.

A FIR filter along one side is a product with a banded matrix, whose bands are all alike but for a shift. So a side is cut into tiles,
and all tiles of all channels are one product with one small matrix: no zeros are put in, nothing is computed that is left out
afterwards, and tiles overlap by their strides, without a copy. Two steps make all
passes, and `through` takes them for a band of tiles at a time:

    spread, rise: [C, S, S] -> [C, T, T], rows, then columns, from one sample to `factor`: up-sampling, and the way back of down-sampling
    fall, gather: [C, T, T] -> [C, S, S], columns, then rows, from `factor` samples to one: down-sampling, and the way back of up-sampling
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from editor.fast_conv import channel_sums, linear

ACROSS, DOWN = 32, 16  # samples at the high rate in a tile, of a row and of a column (measured)
CHUNK = {"cpu": 1 << 20}  # values at the high rate of the channels that are worked on at a time; elsewhere MANY
BAND = {"cpu": 1 << 18}  # those of them that are there at a time, so that they stay in a core's cache (both measured)
MANY = 1 << 26
BEYOND = 4 * ACROSS  # rows of zeros after the last one: more than any tile reads
NEGLIGIBLE = 3e-8  # of the largest: singular values of a filter below float32's rounding


def usable(sampling):
    """Whether a layer may take the fast way: its tiles come out even, and it is not being compiled (which fuses by itself)."""
    even = all(DOWN % factor == 0 for factor in (sampling.up, sampling.down))
    return even and not torch.compiler.is_compiling()


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


def spread(x, way, size):
    """The first half of a rise, x [C, S, S] -> for each piece flat memory, [C, size / up, size]: rows are filtered."""
    (c, side, _), need, before = x.shape, size // way.up, -way.first
    flat = x.new_zeros(c * need * need + ACROSS)
    a, b = max(before, 0), min(before + side, need)
    flat[: c * need * need].view(c, need, need)[:, a:b, a:b] = x[:, a - before : b - before, a - before : b - before]
    wide = [memory(x, c * need * size, BEYOND * size) for _ in way.pieces]
    for (_, rows), out in zip(way.pieces, wide, strict=True):
        across(flat, c * need * size // ACROSS, ACROSS // way.up, rows, out[: c * need * size].view(-1, ACROSS), 0)
    return wide


def rise(wide, way, size, first, count, out):
    """The second half, for `count` tiles of all channels' columns from the first on -> `out`, flat: [count * DOWN, size]."""
    for i, ((columns, _), flat) in enumerate(zip(way.pieces, wide, strict=True)):
        begin, out = flat[first * DOWN // way.up * size :], out[: count * DOWN * size]
        along(begin, count, DOWN // way.up, columns, size, out.view(count, DOWN, size), min(i, 1))


def fall(flat, way, size, first, count, low):
    """The first half of a fall, for `count` tiles of columns: flat [count * DOWN and some more, size] -> into low, for each piece."""
    each = DOWN // way.down * size
    for (columns, _), out in zip(way.pieces, low, strict=True):
        along(flat, count, DOWN, columns, size, out[first * each : (first + count) * each].view(count, -1, size), 0)


def gather(low, c, way, size):
    """The second half of a fall, for each piece flat memory [C, size / down, size] -> [C, size / down, size / down]: rows are filtered."""
    less = size // way.down
    y = low[0].new_empty(c, less, less)
    for i, ((_, rows), flat) in enumerate(zip(way.pieces, low, strict=True)):
        across(flat, c * less * size // ACROSS, ACROSS, rows, y.view(-1, ACROSS // way.down), min(i, 1))
    return y


def through(inputs, ways, way, size, between):
    """Up, what is done at the high rate, and down.

    Args:
        inputs: [C, S, S] each, with the `Pass` of each in `ways`.
        between: (flat values of each input at the high rate) -> flat values.

    Returns:
        [C, size / down, size / down]
    """
    c = len(inputs[0])
    wide = [spread(x, up, size) for x, up in zip(inputs, ways, strict=True)]
    low = [memory(inputs[0], c * size // way.down * size, ACROSS) for _ in way.pieces]
    tiles, more = c * size // DOWN, math.ceil(way.pieces[0][0].shape[1] / DOWN) - 1  # those after a tile that it reaches into
    step = max(1, BAND.get(low[0].device.type, MANY) // (DOWN * size))
    flat = [low[0].new_empty((min(step, tiles) + more) * DOWN * size) for _ in inputs]
    for first in range(0, tiles, step):
        count = min(step, tiles - first)
        for rows, up, out in zip(wide, ways, flat, strict=True):
            rise(rows, up, size, first, count + more, out)
        fall(between(*(out[: (count + more) * DOWN * size] for out in flat)), way, size, first, count, low)
    return gather(low, c, way, size)


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
        p, size = plan(sampling, x.dtype, x.device), sampling.out_size
        out = x.new_empty(*x.shape[:2], size, size)
        for image, part in chunks(x, p.size):
            values = x[image, part] + bias[part]
            clamps = clamp is not None and reaches(values, p.gain, clamp)

            def activate(y, clamps=clamps):
                F.leaky_relu_(y, slope)
                return y.clamp_(-clamp, clamp) if clamps else y

            out[image, part] = through([values], [p.up], p.down, p.size, activate)[:, :size, :size]
        return out

    @staticmethod
    def backward(ctx, g):
        (x, bias), (sampling, slope, clamp) = ctx.saved_tensors, ctx.settings
        p, size = plan(sampling, x.dtype, x.device), x.shape[2]
        out = torch.empty_like(x)
        for image, part in chunks(x, p.back_size):
            values = x[image, part] + bias[part]
            clamps = clamp is not None and reaches(values, p.gain, clamp)

            def activate(y, to_y, clamps=clamps):
                if clamps:
                    to_y.mul_(F.leaky_relu(y, slope).abs() <= clamp)
                return torch.ops.aten.leaky_relu_backward.grad_input(to_y, y, slope, False, grad_input=to_y)

            inputs, ways = [values, g[image, part]], [p.again, p.back_up]
            out[image, part] = through(inputs, ways, p.back_down, p.back_size, activate)[:, :size, :size]
        return out, (out.sum((0, 2, 3)).view_as(bias) if ctx.needs_input_grad[1] else None), None, None, None


def chunks(x, size):
    """(image, slice of channels) for all of x [N, C, S, S], so that [c, size, size] is about CHUNK: never two images."""
    channels = x.shape[1]
    count = max(1, CHUNK.get(x.device.type, MANY) // size**2)
    return [(image, slice(first, first + count)) for image in range(len(x)) for first in range(0, channels, count)]


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
