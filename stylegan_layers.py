"""StyleGAN1 (Karras et al. 2019) and StyleGAN2 (Karras et al. 2020): mapping, synthesis, discriminator, in plain PyTorch.

Read from top to bottom: what both share, StyleGAN1, StyleGAN2, then `Generator` and `Discriminator`, which choose.
Parameters are stored as the official checkpoints store them, so training goes on as it began (equalised learning rate);
the gains are applied on the way, or once for all by `freeze()`.

Shapes: z and w [N, 512], one w a layer ws [N, L, 512] with L = 2 log2(R) - 2 (18 at 1024), images [N, 3, R, R], about
[-1, 1]. Both kinds name their parts alike: `mapping.fc0`, `synthesis.b8.conv0`, `b64.fromrgb`, ...
"""

import math
import reprlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from editor import fast_conv

SQRT2 = math.sqrt(2)
MIRRORED_FROM = 128  # StyleGAN1's up-sampling layers: kernels of checkpoints are stored mirrored from this resolution on


@dataclass(frozen=True)
class Config:
    """What a checkpoint says of its networks. `channel_base` is twice StyleGAN1's `fmap_base`.

    Raises:
        ValueError: an unknown kind, or a resolution that is not a power of two in 4..1024.
    """

    kind: str  # a key of SYNTHESIS
    resolution: int
    channel_base: int
    channel_max: int = 512
    mapping_layers: int = 8
    z_dim: int = 512
    w_dim: int = 512
    conv_clamp: float | None = None  # StyleGAN2-ADA clamps activations to +-256 where it was trained in float16

    def __post_init__(self):
        if self.kind not in SYNTHESIS:
            raise ValueError(f"network kind {self.kind!r}; known are {', '.join(SYNTHESIS)}")
        most = {"resolution": 1024, "channel_base": 1 << 24, "channel_max": 8192, "mapping_layers": 64, "z_dim": 8192, "w_dim": 8192}
        for name, high in most.items():  # what a file declares is looked at before anything of that size is made
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= high:
                raise ValueError(f"{name} {reprlib.repr(value)}; it must be a whole number from 1 to {high}")
        if self.conv_clamp is not None and not (type(self.conv_clamp) in (int, float) and 0 < self.conv_clamp < math.inf):
            raise ValueError(f"conv_clamp {reprlib.repr(self.conv_clamp)}; it must be a number above 0, or none")
        if self.resolution not in (4, 8, 16, 32, 64, 128, 256, 512, 1024):
            raise ValueError(f"resolution {self.resolution}; it must be a power of two from 4 to 1024")
        if self.channels(self.resolution) < 1:
            raise ValueError(f"channel_base {self.channel_base} leaves no channels at {self.resolution}x{self.resolution}")

    def channels(self, resolution):
        """Feature maps at a resolution: halved whenever the side doubles, up to channel_max."""
        return min(int(self.channel_base / resolution), self.channel_max)

    @property
    def resolutions(self):
        """[4, 8, ..., resolution]"""
        return [2**j for j in range(2, self.resolution.bit_length())]

    @property
    def num_ws(self):
        """L: how many w the synthesis network takes."""
        return 2 * len(self.resolutions)


# ---------------------------------------------------------------------------------------------------------------------
# What both kinds share


class Layer(nn.Module):
    """A layer that derives its working tensors from its parameters, anew in training, once when frozen.

    `derive()` returns them; `tensors()` is what forward uses. `freeze()` keeps them until `train()` or new weights, and
    with them `kernels`, the same weights in the form that a fast convolution takes (fast_conv.py), or None.
    """

    frozen = kernels = None

    def extra(self):
        return None

    def derive(self):
        raise NotImplementedError

    def tensors(self):
        return self.derive() if self.frozen is None else self.frozen

    def freeze(self):
        with torch.no_grad():
            self.frozen, self.kernels = self.derive(), self.extra()

    def train(self, mode=True):
        if mode:
            self.frozen = self.kernels = None
        return super().train(mode)

    def _load_from_state_dict(self, *args):
        self.frozen = self.kernels = None
        super()._load_from_state_dict(*args)

    def _apply(self, fn, recurse=True):  # .to(device) moves the derived tensors along
        super()._apply(fn, recurse)
        if self.frozen is not None:
            self.frozen = tuple(None if t is None else fn(t) for t in self.frozen)
            self.kernels = self.extra()
        return self


class Dense(Layer):
    """y = x (weight * gain / sqrt(fan_in) * lr_mul)^T + bias * lr_mul."""

    def __init__(self, fan_in, fan_out, gain=1.0, lr_mul=1.0, bias_init=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in) / lr_mul)
        self.bias = nn.Parameter(torch.full((fan_out,), bias_init / lr_mul))
        self.weight_gain, self.lr_mul = gain * lr_mul / math.sqrt(fan_in), lr_mul

    def derive(self):
        return self.weight * self.weight_gain, self.bias * self.lr_mul

    def forward(self, x):
        return (fast_conv.rows if fast(self, x) else F.linear)(x, *self.tensors())


class Mapping(nn.Module):
    """z [N, z_dim] -> w [N, w_dim]: normalise, then dense layers with leaky ReLU.

    StyleGAN1 keeps the gain sqrt 2 of the leaky ReLU in the weights, StyleGAN2 applies it (to the bias too).
    """

    def __init__(self, config):
        super().__init__()
        first = config.kind == "stylegan1"
        self.depth, self.act_gain = config.mapping_layers, 1.0 if first else SQRT2
        for i in range(self.depth):
            fan_in = config.w_dim if i else config.z_dim
            self.add_module(f"fc{i}", Dense(fan_in, config.w_dim, gain=SQRT2 if first else 1.0, lr_mul=0.01))
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, z):
        x = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self.depth):
            x = F.leaky_relu(getattr(self, f"fc{i}")(x), 0.2) * self.act_gain
        return x


def upsample(x):
    """[N, C, H, W] -> [N, C, 2H, 2W] with the filter [1, 3, 3, 1], zeros outside (StyleGAN2's upsample_2d).

    Bilinear interpolation has the same weights; padding first gives the same borders.
    """
    return F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")[:, :, 2:-2, 2:-2]


def fast(layer, x):
    """Whether a layer may take its hand-written backward pass: frozen, float32, and not being compiled (which fuses by itself)."""
    return layer.frozen is not None and x.dtype == torch.float32 and not torch.compiler.is_compiling()


def spent(x):
    """x, to be written over, where no gradient will ask for it (new memory costs more than the sums that fill it); else None."""
    return None if torch.is_grad_enabled() or torch.compiler.is_compiling() else x


def kept(layer, again, *inputs):
    """layer(*inputs); with `again` its inner tensors are not kept for the backward pass but computed a second time there."""
    if again and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)


def filtered(x, taps, padding, stride=1, gain=1.0, bias=None, fixed=False):
    """Each channel of x [N, C, H, W] filtered with the normalised outer product of `taps`. `fixed`: the bias has no gradient."""
    k = torch.tensor(taps, dtype=x.dtype, device=x.device)
    k = k.outer(k) * (gain / k.sum() ** 2)
    if fixed and stride == 1:
        return fast_conv.Blur.apply(x, k, bias, padding)
    channels = x.shape[1]
    return F.conv2d(x, k.expand(channels, 1, *k.shape), bias, stride=stride, padding=padding, groups=channels)


def sum_of_shifts(weight):
    """3x3 kernels -> the sum of their four 1-pixel shifts, 4x4: nearest up-sampling, or 2x2 sums, inside the kernel.

    The official StyleGAN1 does so from 128x128 on only; it is as exact, and cheaper, at every size.
    """
    w = F.pad(weight, (1, 1, 1, 1))
    return w[:, :, 1:, 1:] + w[:, :, :-1, 1:] + w[:, :, 1:, :-1] + w[:, :, :-1, :-1]


def minibatch_stddev(x, group=4):
    """Append to x [N, C, 4, 4] one map with the mean standard deviation of a group of images.

    Image i is grouped with i + N/G, i + 2N/G, ...; G is the largest divisor of N up to `group`.
    """
    n, c, h, w = x.shape
    g = max(d for d in range(1, group + 1) if n % d == 0)
    y = x.float().view(g, n // g, c, h, w)
    y = (y.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return torch.cat([x, y.to(x.dtype).repeat(g).view(n, 1, 1, 1).expand(n, 1, h, w)], dim=1)


def channel_sums(a, b):
    """Sum over the pixels of a * b, [N, C, H, W] each (b: C or 1 channels) -> [N, C, 1, 1], in one pass over memory."""
    sums = "nchw,nchw->nc" if b.shape[1] > 1 else "nchw,nxhw->nc"
    return fast_conv.alone(lambda a, b: torch.einsum(sums, a, b), a, b, always=True)[:, :, None, None]


# ---------------------------------------------------------------------------------------------------------------------
# StyleGAN1


class Epilogue1(torch.autograd.Function):
    """What follows StyleGAN1's convolution, for frozen weights: noise, leaky ReLU, instance norm, style, in five passes over memory.

    x [N, C, H, W] is overwritten and the only large tensor kept: the leaky ReLU keeps signs, so its slope can be read off
    its output. The formulas are those of a batch norm whose gain and bias come from the style.
    """

    @staticmethod
    def forward(ctx, x, noise, strength, scale, shift):
        if noise is not None:
            x.addcmul_(noise, strength)
        F.leaky_relu_(x, 0.2)
        # layer norm over a channel's pixels is instance norm, and PyTorch's fastest on a CPU
        y, mean, inverse = torch.native_layer_norm(x.flatten(2), (x[0, 0].numel(),), None, None, 1e-8)
        mean, inverse = mean[..., None], inverse[..., None]
        ctx.save_for_backward(x, mean, inverse, (scale + 1) * inverse, strength)
        y = y.view_as(x)
        return torch.addcmul(shift, y, scale + 1, out=y)

    @staticmethod
    def backward(ctx, g):
        x, mean, inverse, gain, strength = ctx.saved_tensors
        pixels = x[0, 0].numel()
        shift = g.sum((2, 3), keepdim=True)
        scale = (channel_sums(g, x) - mean * shift) * inverse
        slope = -gain * inverse * scale / pixels
        y = torch.addcmul(-gain * shift / pixels - slope * mean, x, slope).addcmul_(g, gain)
        y = torch.ops.aten.leaky_relu_backward(y, x, 0.2, True)
        noise = (y * strength).sum(1, keepdim=True) if ctx.needs_input_grad[1] else None
        return y, noise, None, scale, shift


class StyledConv1(Layer):
    """StyleGAN1's layer: (up-)convolution, noise, bias, leaky ReLU, instance norm, style. `fan_in` None: no convolution."""

    def __init__(self, fan_in, fan_out, w_dim, resolution, up=False):
        super().__init__()
        self.resolution, self.up = resolution, up
        if fan_in:
            self.weight = nn.Parameter(torch.randn(fan_out, fan_in, 3, 3))
            self.weight_gain = SQRT2 / math.sqrt(fan_in * 9)
        else:
            self.weight = None
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.noise_strength = nn.Parameter(torch.zeros(fan_out))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.affine = Dense(w_dim, 2 * fan_out)

    def derive(self):
        weight = None if self.weight is None else self.weight * self.weight_gain
        if self.up:  # a transposed convolution mirrors its kernel; the official network has one from 128x128 on only
            weight = weight if self.resolution >= MIRRORED_FROM else weight.flip(2, 3)
            weight = sum_of_shifts(weight).transpose(0, 1).contiguous()
        return weight, self.bias, self.noise_strength.view(-1, 1, 1)

    def extra(self):
        weight = self.derive()[0]
        return None if weight is None else fast_conv.phases_of(weight) if self.up else fast_conv.transformed(weight, self.resolution)

    def forward(self, x, w, noise):
        weight, bias, strength = self.tensors()
        if weight is not None:
            weight = weight.to(x.dtype)
        bias, strength, fixed = bias.to(x.dtype), strength.to(x.dtype), fast(self, x)
        if self.up:
            x = fast_conv.UpConv.apply(x, weight, self.kernels, 1) if fixed else F.conv_transpose2d(x, weight, stride=2, padding=1)
            x = filtered(x, [1, 2, 1], 1, bias=bias, fixed=fixed)
        elif weight is not None:
            x = fast_conv.conv(x, weight, bias, self.kernels) if fixed else F.conv2d(x, weight, bias, padding=1)
        else:
            x = x + bias.view(-1, 1, 1)
        scale, shift = self.affine(w).to(x.dtype).view(len(w), 2, -1, 1, 1).unbind(1)
        noise = None if noise is None else noise.to(x.dtype)
        if fixed:
            return Epilogue1.apply(x, noise, strength, scale, shift)
        x = x if noise is None else torch.addcmul(x, noise, strength, out=spent(x))
        x = F.instance_norm(F.leaky_relu(x, 0.2, inplace=spent(x) is x), eps=1e-8)
        return torch.mul(x, scale + 1, out=spent(x)).add_(shift)  # addcmul takes five times as long in bfloat16


class Pointwise1(Layer):
    """StyleGAN1's 1x1 convolution to or from RGB."""

    def __init__(self, fan_in, fan_out, gain):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.weight_gain = gain / math.sqrt(fan_in)

    def derive(self):
        return self.weight * self.weight_gain, self.bias

    def forward(self, x):
        weight, bias = self.tensors()
        return (fast_conv.conv if fast(self, x) else F.conv2d)(x, weight.to(x.dtype), bias.to(x.dtype))


class Block1(nn.Module):
    """One resolution of StyleGAN1: two styled layers."""

    def __init__(self, config, resolution):
        super().__init__()
        c = config.channels(resolution)
        if resolution == 4:
            self.const = nn.Parameter(torch.ones(c, 4, 4))
        below = None if resolution == 4 else config.channels(resolution // 2)
        self.conv0 = StyledConv1(below, c, config.w_dim, resolution, up=resolution > 4)
        self.conv1 = StyledConv1(c, c, config.w_dim, resolution)


class Synthesis1(nn.Module):
    """StyleGAN1's synthesis network: ws [N, L, 512] -> image [N, 3, R, R], about [-1, 1].

    Layers of `recompute_from` pixels and more keep only their input for the backward pass (less memory, more time).
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        for r in config.resolutions:
            self.add_module(f"b{r}", Block1(config, r))
        self.torgb = Pointwise1(config.channels(config.resolution), 3, gain=1.0)

    def layers(self):
        """The layers that take noise, in order."""
        return [layer for r in self.config.resolutions for layer in (getattr(self, f"b{r}").conv0, getattr(self, f"b{r}").conv1)]

    def forward(self, ws, noise="const", dtype=torch.float32, recompute_from=math.inf):
        check_ws(ws, self.config)
        x = self.b4.const.to(dtype).expand(len(ws), -1, -1, -1)
        maps = noise_maps(self.layers(), noise, ws)
        for i, layer in enumerate(self.layers()):
            x = kept(layer, layer.resolution >= recompute_from, x, ws[:, i], maps[i])
        return self.torgb(x.float())


class DiscriminatorConv1(Layer):
    """3x3 convolution, bias, leaky ReLU; `down`: halved after a [1, 2, 1] blur, the mean of 2x2 pixels inside the kernel."""

    def __init__(self, fan_in, fan_out, down=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.weight_gain, self.down = SQRT2 / math.sqrt(fan_in * 9), down

    def derive(self):
        weight = self.weight * self.weight_gain
        return (sum_of_shifts(weight) * 0.25 if self.down else weight), self.bias

    def forward(self, x):
        weight, bias = (t.to(x.dtype) for t in self.tensors())
        if self.down:
            x = filtered(x, [1, 2, 1], padding=1)
        return F.leaky_relu_(F.conv2d(x, weight, bias, padding=1, stride=2 if self.down else 1), 0.2)


class DiscriminatorBlock1(nn.Module):
    def __init__(self, config, resolution):
        super().__init__()
        c, below = config.channels(resolution), config.channels(resolution // 2)
        if resolution == config.resolution:
            self.fromrgb = Pointwise1(3, c, gain=SQRT2)
        if resolution > 4:
            self.conv0 = DiscriminatorConv1(c, c)
            self.conv1 = DiscriminatorConv1(c, below, down=True)
        else:
            self.conv = DiscriminatorConv1(c + 1, c)
            self.fc = Dense(c * 16, below, gain=SQRT2)
            self.out = Dense(below, 1)

    def forward(self, x):
        if hasattr(self, "fromrgb"):
            x = F.leaky_relu(self.fromrgb(x), 0.2)
        if hasattr(self, "conv0"):
            return self.conv1(self.conv0(x))
        x = self.conv(minibatch_stddev(x)).float()
        return self.out(F.leaky_relu(self.fc(x.flatten(1)), 0.2))


# ---------------------------------------------------------------------------------------------------------------------
# StyleGAN2


class Scale(torch.autograd.Function):
    """x [N, C, H, W] * s [N, C, 1, 1]; the gradient of s in one pass over memory."""

    @staticmethod
    def forward(ctx, x, s):
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    def backward(ctx, g):
        x, s = ctx.saved_tensors
        return (g * s if ctx.needs_input_grad[0] else None), channel_sums(g, x)


class Epilogue2(torch.autograd.Function):
    """What follows StyleGAN2's convolution, for frozen weights: demodulation, noise, bias, leaky ReLU.

    x [N, C, H, W] is overwritten by the output y, the only large tensor kept. With p the value before the leaky ReLU,
    (dL/dp) p = (dL/dy) y, and x is (p - noise - bias) / demodulation: no other tensor is needed for the gradients.
    """

    @staticmethod
    def forward(ctx, x, demodulation, noise, strength, bias):
        torch.addcmul(bias, x, demodulation, out=x)
        if noise is not None:
            x.addcmul_(noise, strength)
        F.leaky_relu_(x, 0.2)
        ctx.save_for_backward(x, demodulation, noise, strength, bias)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        y, demodulation, noise, strength, bias = ctx.saved_tensors
        d = channel_sums(g, y)
        g = torch.ops.aten.leaky_relu_backward(g, y, 0.2, True)
        d = d - bias * g.sum((2, 3), keepdim=True)
        if noise is not None:
            d = d - strength * channel_sums(g, noise.expand(len(g), -1, -1, -1))
        to_noise = g.sum(1, keepdim=True) * strength if ctx.needs_input_grad[2] else None
        if to_noise is not None and len(noise) < len(g):
            to_noise = to_noise.sum(0, keepdim=True)
        return g.mul_(demodulation), d / demodulation, to_noise, None, None


class StyledConv2(Layer):
    """StyleGAN2's layer: modulated (up-)convolution, demodulation, noise, bias, leaky ReLU * sqrt 2.

    The input is scaled instead of the weights: one convolution for the whole batch. Demodulation needs only the sum of
    squares of each kernel. The gain sqrt 2 goes into what comes before the leaky ReLU, which is homogeneous.
    """

    def __init__(self, fan_in, fan_out, w_dim, resolution, up=False, clamp=None):
        super().__init__()
        self.up, self.clamp, self.resolution = up, clamp, resolution
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.affine = Dense(w_dim, fan_in, bias_init=1.0)
        self.weight_gain = 1 / math.sqrt(fan_in * 9)

    def derive(self):
        weight = self.weight * self.weight_gain
        squares = weight.square().sum(dim=(2, 3))  # [O, I]
        if self.up:
            weight = weight.transpose(0, 1)  # the layout of a transposed convolution, which flips the kernel as asked
        return weight.contiguous(), squares, SQRT2 * self.bias.view(-1, 1, 1), SQRT2 * self.noise_strength

    def extra(self):
        return None if self.up else fast_conv.transformed(self.derive()[0], self.resolution)

    def forward(self, x, w, noise):
        (weight, squares, bias, strength), fixed = self.tensors(), fast(self, x)
        style = self.affine(w)  # [N, I]
        linear = fast_conv.rows if fixed else F.linear
        demodulation = SQRT2 * (linear(style.square(), squares) + 1e-8).rsqrt()[:, :, None, None]  # [N, O, 1, 1]
        style = style.to(x.dtype)[:, :, None, None]
        x = Scale.apply(x, style) if fixed else x * style
        if self.up:
            x = fast_conv.UpConv.apply(x, weight, None, 0) if fixed else F.conv_transpose2d(x, weight.to(x.dtype), stride=2)
            x = filtered(x, [1, 3, 3, 1], padding=1, gain=4, fixed=fixed)
        else:
            x = fast_conv.conv(x, weight, None, self.kernels) if fixed else F.conv2d(x, weight.to(x.dtype), padding=1)
        if fixed:
            x = Epilogue2.apply(x, demodulation, noise, strength, bias)
        else:
            offset = bias if noise is None else bias + strength * noise
            x = F.leaky_relu_(torch.addcmul(offset.to(x.dtype), x, demodulation.to(x.dtype)), 0.2)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class ToRGB2(Layer):
    """StyleGAN2's modulated 1x1 convolution to RGB, without demodulation and noise."""

    def __init__(self, fan_in, w_dim, clamp=None):
        super().__init__()
        self.clamp = clamp
        self.weight = nn.Parameter(torch.randn(3, fan_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = Dense(w_dim, fan_in, bias_init=1.0)
        self.weight_gain = 1 / math.sqrt(fan_in)

    def derive(self):
        return self.weight.flatten(1) * self.weight_gain, self.bias

    def forward(self, x, w):
        weight, bias = self.tensors()
        weight = weight * self.affine(w)[:, None, :]  # [N, 3, I]: three maps only, so scale the weights
        n, c, h, width = x.shape
        y = torch.bmm(weight.to(x.dtype), x.reshape(n, c, h * width)).view(n, 3, h, width).float() + bias.view(-1, 1, 1)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class Block2(nn.Module):
    """One resolution of StyleGAN2: two styled layers (one at 4x4) and an RGB image that is added to the one below."""

    def __init__(self, config, resolution):
        super().__init__()
        c, clamp = config.channels(resolution), config.conv_clamp
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(c, 4, 4))
        else:
            self.conv0 = StyledConv2(config.channels(resolution // 2), c, config.w_dim, resolution, up=True, clamp=clamp)
        self.conv1 = StyledConv2(c, c, config.w_dim, resolution, clamp=clamp)
        self.torgb = ToRGB2(c, config.w_dim, clamp=clamp)


class Synthesis2(nn.Module):
    """StyleGAN2's synthesis network: ws [N, L, 512] -> image [N, 3, R, R], about [-1, 1].

    A block's ToRGB shares its w with the first layer of the next block. Layers of `recompute_from` pixels and more keep
    only their input for the backward pass (less memory, more time).
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        for r in config.resolutions:
            self.add_module(f"b{r}", Block2(config, r))

    def layers(self):
        """The layers that take noise, in order."""
        blocks = [getattr(self, f"b{r}") for r in self.config.resolutions]
        return [layer for b in blocks for layer in ([b.conv0, b.conv1] if hasattr(b, "conv0") else [b.conv1])]

    def forward(self, ws, noise="const", dtype=torch.float32, recompute_from=math.inf):
        check_ws(ws, self.config)
        x, image, i = self.b4.const.to(dtype).expand(len(ws), -1, -1, -1), None, 0
        maps = noise_maps(self.layers(), noise, ws)
        for r in self.config.resolutions:
            block, again = getattr(self, f"b{r}"), r >= recompute_from
            for layer in [block.conv0, block.conv1] if r > 4 else [block.conv1]:
                x = kept(layer, again, x, ws[:, i], maps[i])
                i += 1
            rgb = kept(block.torgb, again, x, ws[:, i])
            image = rgb if image is None else upsample(image) + rgb
        return image


class Conv2(Layer):
    """The StyleGAN2 discriminator's convolution: bias, leaky ReLU * sqrt 2 * gain; `down`: filtered, then stride 2."""

    def __init__(self, fan_in, fan_out, kernel, bias=True, down=False, gain=1.0, clamp=None):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(fan_out)) if bias else None
        self.weight_gain, self.kernel, self.down, self.gain = 1 / math.sqrt(fan_in * kernel**2), kernel, down, gain
        self.clamp = clamp * gain if clamp is not None and bias else None

    def derive(self):
        gain = self.gain * (1 if self.bias is None else SQRT2)  # before a leaky ReLU as good as after it
        return self.weight * (self.weight_gain * gain), None if self.bias is None else self.bias * gain

    def forward(self, x):
        weight, bias = self.tensors()
        bias = None if bias is None else bias.to(x.dtype)
        if self.down and self.kernel == 1:
            x = F.conv2d(filtered(x, [1, 3, 3, 1], padding=1, stride=2), weight.to(x.dtype), bias)
        elif self.down:
            x = F.conv2d(filtered(x, [1, 3, 3, 1], padding=2), weight.to(x.dtype), bias, stride=2)
        else:
            x = F.conv2d(x, weight.to(x.dtype), bias, padding=self.kernel // 2)
        if bias is not None:
            x = F.leaky_relu_(x, 0.2)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class DiscriminatorBlock2(nn.Module):
    def __init__(self, config, resolution):
        super().__init__()
        c, clamp = config.channels(resolution), config.conv_clamp
        if resolution == config.resolution:
            self.fromrgb = Conv2(3, c, 1, clamp=clamp)
        if resolution > 4:
            below, half = config.channels(resolution // 2), math.sqrt(0.5)
            self.conv0 = Conv2(c, c, 3, clamp=clamp)
            self.conv1 = Conv2(c, below, 3, down=True, gain=half, clamp=clamp)
            self.skip = Conv2(c, below, 1, bias=False, down=True, gain=half)
        else:
            self.conv = Conv2(c + 1, c, 3, clamp=clamp)
            self.fc = Dense(c * 16, c)
            self.out = Dense(c, 1)

    def forward(self, x):
        if hasattr(self, "fromrgb"):
            x = self.fromrgb(x)
        if hasattr(self, "conv0"):
            return self.skip(x) + self.conv1(self.conv0(x))
        x = self.conv(minibatch_stddev(x)).float()
        return self.out(F.leaky_relu(self.fc(x.flatten(1)), 0.2) * SQRT2)


# ---------------------------------------------------------------------------------------------------------------------
# The networks

SYNTHESIS = {"stylegan1": Synthesis1, "stylegan2": Synthesis2}
DISCRIMINATOR_BLOCK = {"stylegan1": DiscriminatorBlock1, "stylegan2": DiscriminatorBlock2}


def check_ws(ws, config):
    if ws.ndim != 3 or ws.shape[1:] != (config.num_ws, config.w_dim):
        raise ValueError(f"latent of shape {list(ws.shape)}; this generator takes [N, {config.num_ws}, {config.w_dim}]")


def noise_maps(layers, noise, like):
    """One map a layer, [1 or N, 1, r, r] or None, from "const" (the checkpoint's), "random", "none" or a list of maps."""
    if isinstance(noise, str):
        if noise == "const":
            return [layer.noise_const[None, None] for layer in layers]
        if noise == "none":
            return [None] * len(layers)
        if noise == "random":
            return [torch.randn(len(like), 1, layer.resolution, layer.resolution, device=like.device) for layer in layers]
        raise ValueError(f"noise {noise!r}; use const, random, none, or a list of maps")
    want = [layer.resolution for layer in layers]
    if [tuple(m.shape[1:]) for m in noise] != [(1, r, r) for r in want]:
        raise ValueError(f"noise maps of shapes {[list(m.shape) for m in noise]}; this generator takes [N, 1, r, r] with r = {want}")
    return noise


class Network(nn.Module):
    def freeze(self):
        """No more training: eval mode, no gradients for the weights, gains folded in once. Returns self."""
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Layer):
                module.freeze()
        return self


class Generator(Network):
    """z -> w -> ws -> image.

    Args:
        config: a `Config`.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.mapping = Mapping(config)
        self.synthesis = SYNTHESIS[config.kind](config)

    kind = property(lambda self: self.config.kind)
    resolution = property(lambda self: self.config.resolution)
    num_ws = property(lambda self: self.config.num_ws)
    w_avg = property(lambda self: self.mapping.w_avg)  # [512], the mean of mapping(z)

    def truncate(self, w, psi=1.0, cutoff=None):
        """w [N, 512] or ws [N, L, 512] -> ws [N, L, 512] with the first `cutoff` layers (default all) moved towards w_avg."""
        ws = w[:, None].expand(-1, self.num_ws, -1) if w.ndim == 2 else w
        if psi == 1:
            return ws
        psis = torch.ones(self.num_ws, 1, device=ws.device, dtype=ws.dtype)
        psis[:cutoff] = psi
        return self.w_avg + psis * (ws - self.w_avg)

    def forward(self, z, truncation_psi=1.0, truncation_cutoff=None, noise="const"):
        """z [N, 512] ~ N(0, 1) -> images [N, 3, R, R], about [-1, 1]."""
        return self.synthesis(self.truncate(self.mapping(z), truncation_psi, truncation_cutoff), noise)


class Discriminator(Network):
    """images [N, 3, R, R] in [-1, 1] -> scores [N, 1]; above 0: looks real."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        for r in config.resolutions:
            self.add_module(f"b{r}", DISCRIMINATOR_BLOCK[config.kind](config, r))

    def forward(self, image):
        for r in reversed(self.config.resolutions):
            image = getattr(self, f"b{r}")(image)
        return image
