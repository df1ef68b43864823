"""StyleGAN1 (Karras et al. 2019) and StyleGAN2 (Karras et al. 2020): mapping, synthesis, discriminator, in plain PyTorch.

Read from top to bottom: what both share, StyleGAN1, StyleGAN2, then `Generator` and `Discriminator`, which choose.
Parameters are stored as the official checkpoints store them, so training goes on as it began (equalised learning rate:
Karras et al. 2018, section 4.1). A layer's `derive()` applies the gains, `tensors()` returns the outcome; `freeze()` does so
once for all. Frozen layers have a fast way too, which computes the same (`editor/fast_conv.py`): what stands here is the plain one.

Shapes: z and w [N, 512], one w a layer ws [N, L, 512] with L = 2 log2(R) - 2 (18 at 1024), images [N, 3, R, R], about
[-1, 1]. In a layer I and O are its input and output channels. Both kinds name their parts alike: `mapping.fc0`,
`synthesis.b8.conv0`, `b64.fromrgb`, ...
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from editor import fast_conv
from editor.fast_conv import Freezable

SQRT2 = math.sqrt(2)
MIRRORED_FROM = 128  # StyleGAN1's up-sampling layers: kernels of checkpoints are stored mirrored from this resolution on


@dataclass(frozen=True)
class Config:
    """What a checkpoint says of its networks; or ValueError. `channel_base` is twice StyleGAN1's `fmap_base`."""

    kind: str  # a key of SYNTHESIS
    resolution: int
    channel_base: int
    channel_max: int = 512
    mapping_layers: int = 8
    z_dim: int = 512
    w_dim: int = 512
    conv_clamp: float | None = None  # StyleGAN2-ADA clamps activations to +-256 where it was trained in float16
    c_dim: int = 0  # classes of StyleGAN2-ADA and StyleGAN3; 0: none

    def __post_init__(self):
        if self.kind not in SYNTHESIS:
            raise ValueError(f"network kind {self.kind!r}; known are {', '.join(SYNTHESIS)}")
        most = {"resolution": 1024, "channel_base": 1 << 24, "channel_max": 8192, "mapping_layers": 64, "z_dim": 8192, "w_dim": 8192}
        for name, high in most.items():  # what a file declares is looked at before anything of that size is made
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= high:
                raise ValueError(f"{name} {value!r:.40}; it must be a whole number from 1 to {high}")
        if type(self.c_dim) is not int or not 0 <= self.c_dim <= (0 if self.kind == "stylegan1" else 8192):
            raise ValueError(f"c_dim {self.c_dim!r:.40}; it must be a whole number from 0 to 8192, and 0 in StyleGAN1")
        if self.conv_clamp is not None and not (type(self.conv_clamp) in (int, float) and 0 < self.conv_clamp < math.inf):
            raise ValueError(f"conv_clamp {self.conv_clamp!r:.40}; it must be a number above 0, or none")
        if self.resolution not in (4, 8, 16, 32, 64, 128, 256, 512, 1024):
            raise ValueError(f"resolution {self.resolution}; it must be a power of two from 4 to 1024")
        if self.channels(self.resolution) < 1:
            raise ValueError(f"channel_base {self.channel_base} leaves no channels at {self.resolution}x{self.resolution}")

    def channels(self, resolution):
        """Feature maps at a resolution: halved whenever the side doubles, up to channel_max."""
        return min(int(self.channel_base / resolution), self.channel_max)

    resolutions = property(lambda self: [2**j for j in range(2, self.resolution.bit_length())])  # [4, 8, ..., resolution]
    num_ws = property(lambda self: 2 * len(self.resolutions))  # L: how many w the synthesis network takes


# ---------------------------------------------------------------------------------------------------------------------
# What both kinds share


class Dense(Freezable):
    """y = x (weight * gain / sqrt(fan_in) * lr_mul)^T + bias * lr_mul."""

    def __init__(self, fan_in, fan_out, gain=1.0, lr_mul=1.0, bias_init=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in) / lr_mul)
        self.bias = nn.Parameter(torch.full((fan_out,), bias_init / lr_mul))
        self.weight_gain, self.lr_mul = gain * lr_mul / math.sqrt(fan_in), lr_mul

    def derive(self):
        return self.weight * self.weight_gain, self.bias * self.lr_mul

    def forward(self, x):
        """x [N, I] -> [N, O]"""
        if fast_conv.usable(self, x):
            return fast_conv.linear(x, *self.tensors())
        return F.linear(x, *self.tensors())


def normalized(x):
    """[N, D] -> each row of mean square 1"""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """The mapping network: z is normalised, then passes dense layers with leaky ReLU.

    StyleGAN1 keeps the gain sqrt 2 of the leaky ReLU in the weights, StyleGAN2 applies it (to the bias too).
    A class is embedded, normalised as z is, and joined to it (Karras et al. 2020, StyleGAN2-ADA, appendix D).
    """

    def __init__(self, config):
        super().__init__()
        first = config.kind == "stylegan1"
        self.depth, self.act_gain = config.mapping_layers, 1.0 if first else SQRT2
        self.c_dim, width = config.c_dim, config.z_dim + (config.w_dim if config.c_dim else 0)
        self.embed = Dense(config.c_dim, config.w_dim) if config.c_dim else None
        for i in range(self.depth):
            fan_in = config.w_dim if i else width
            self.add_module(f"fc{i}", Dense(fan_in, config.w_dim, gain=SQRT2 if first else 1.0, lr_mul=0.01))
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, z, c=None):
        """z [N, z_dim], and with classes c [N or 1, c_dim], 1 at the class and 0 elsewhere -> w [N, w_dim]; or ValueError."""
        if (c is None) == (self.c_dim > 0) or (c is not None and c.shape[1:] != (self.c_dim,)):
            given = "no class given" if c is None else f"classes of shape {list(c.shape)}"
            raise ValueError(f"{given}; this generator " + (f"takes classes [N, {self.c_dim}]" if self.c_dim else "has no classes"))
        x = normalized(z)
        if self.embed is not None:
            x = torch.cat([x, normalized(self.embed(c.to(x.dtype))).expand(len(x), -1)], dim=1)  # [N, z_dim + w_dim]
        for i in range(self.depth):
            x = F.leaky_relu(getattr(self, f"fc{i}")(x), 0.2) * self.act_gain  # [N, w_dim]
        return x


def upsample(x):
    """[N, C, H, W] -> [N, C, 2H, 2W] with the filter [1, 3, 3, 1], which is bilinear, zeros outside (StyleGAN2's upsample_2d)."""
    return F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")[:, :, 2:-2, 2:-2]


def apply_layer(layer, *inputs, recompute=False):
    """layer(*inputs); with `recompute` its inner tensors are not kept for the backward pass but computed a second time there."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)  # layers draw nothing: maps come from outside
    return layer(*inputs)


def filtered(x, kernel, padding, stride=1, bias=None):
    """Each channel of x [N, C, H, W] filtered with one kernel [k, k]; bias [C] or None."""
    channels = x.shape[1]
    kernel = kernel.to(x.dtype).expand(channels, 1, -1, -1)
    return F.conv2d(x, kernel, bias, stride=stride, padding=padding, groups=channels)


def sum_of_shifts(weight):
    """Kernels [O, I, 3, 3] -> the sum of their four 1-pixel shifts [O, I, 4, 4]: nearest up-sampling, or 2x2 sums, inside the kernel.

    The official StyleGAN1 does so from 128x128 on only; it is as exact, and cheaper, at every size.
    """
    w = F.pad(weight, (1, 1, 1, 1))
    return w[:, :, 1:, 1:] + w[:, :, :-1, 1:] + w[:, :, 1:, :-1] + w[:, :, :-1, :-1]


def minibatch_stddev(x, group=4):
    """x [N, C, 4, 4] -> [N, C + 1, 4, 4]: one more map, the mean standard deviation of a group of images (Karras et al. 2018, section 3).

    Image i is grouped with i + N/G, i + 2N/G, ...; G is the largest divisor of N up to `group`.
    """
    n, c, h, w = x.shape
    g = max(d for d in range(1, group + 1) if n % d == 0)
    y = x.float().view(g, n // g, c, h, w)  # [G, N/G, C, 4, 4]
    y = (y.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # [N/G]
    return torch.cat([x, y.to(x.dtype).repeat(g).view(n, 1, 1, 1).expand(n, 1, h, w)], dim=1)


# ---------------------------------------------------------------------------------------------------------------------
# StyleGAN1


class StyledConv1(Freezable):
    """StyleGAN1's layer: (up-)convolution, noise, bias, leaky ReLU, AdaIN (instance norm, then style).

    Karras et al. 2019, figure 1 and equation 1. `fan_in` None: no convolution, the first layer of 4x4.
    """

    def __init__(self, fan_in, fan_out, w_dim, resolution, up=False):
        super().__init__()
        self.resolution, self.up = resolution, up
        if fan_in:
            self.weight = nn.Parameter(torch.randn(fan_out, fan_in, 3, 3))
            self.weight_gain = SQRT2 / math.sqrt(fan_in * 9)
        else:
            self.weight = None
        self.register_buffer("blur", fast_conv.BLUR1 if up else None, persistent=False)  # on the device, and in no checkpoint
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

    def make_kernels(self):
        weight = self.frozen[0]
        if weight is None:
            return None
        return fast_conv.phase_kernels(weight) if self.up else fast_conv.winograd_kernels(weight, self.resolution)

    def forward(self, x, w, noise):
        """x [N, I, H, W], w [N, w_dim], noise [1 or N, 1, R, R] or None -> [N, O, R, R], R = resolution: 2H with `up`, else H."""
        if fast_conv.usable(self, x):
            return fast_conv.styled1(self, x, w, noise)
        weight, bias, strength = (None if t is None else t.to(x.dtype) for t in self.tensors())
        if self.up:
            x = F.conv_transpose2d(x, weight, stride=2, padding=1)  # [N, O, 2H, 2W]
            x = filtered(x, self.blur, padding=1, bias=bias)
        elif weight is not None:
            x = F.conv2d(x, weight, bias, padding=1)  # [N, O, H, W]
        else:
            x = x + bias.view(-1, 1, 1)
        if noise is not None:  # before or after the bias is the same
            x = x.addcmul_(noise.to(x.dtype), strength)  # strength [O, 1, 1]
        x = F.leaky_relu_(x, 0.2)
        x = F.instance_norm(x, eps=1e-8)
        style = self.affine(w).to(x.dtype)  # [N, 2 O]
        scale, shift = style.view(len(w), 2, -1, 1, 1).unbind(1)  # [N, O, 1, 1] each
        return (x * (scale + 1)).add_(shift)  # addcmul takes five times as long in bfloat16


class Pointwise1(Freezable):
    """StyleGAN1's 1x1 convolution to or from RGB."""

    def __init__(self, fan_in, fan_out, gain):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.weight_gain = gain / math.sqrt(fan_in)

    def derive(self):
        return self.weight * self.weight_gain, self.bias

    def forward(self, x):
        """x [N, I, H, W] -> [N, O, H, W]"""
        if fast_conv.usable(self, x):
            return fast_conv.conv(x, *self.tensors())
        weight, bias = self.tensors()
        return F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype))


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
    """StyleGAN1's synthesis network: a learned constant, two styled layers a resolution, then RGB.

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
        """ws [N, L, 512] -> image [N, 3, R, R], about [-1, 1]; `noise` as in `noise_maps`, `dtype` of the convolutions."""
        check_ws(ws, self.config)
        x = self.b4.const.to(dtype).expand(len(ws), -1, -1, -1)  # [N, C, 4, 4]
        maps = noise_maps(self.layers(), noise, ws)  # L of [1 or N, 1, r, r], r = 4, 4, 8, 8, ..., R, R
        for i, layer in enumerate(self.layers()):
            x = apply_layer(layer, x, ws[:, i], maps[i], recompute=layer.resolution >= recompute_from)  # [N, C, r, r]
        return self.torgb(x.float())  # [N, 3, R, R]


class DiscriminatorConv1(Freezable):
    """3x3 convolution, bias, leaky ReLU; `down`: halved after a [1, 2, 1] blur, the mean of 2x2 pixels inside the kernel."""

    def __init__(self, fan_in, fan_out, down=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.weight_gain, self.down = SQRT2 / math.sqrt(fan_in * 9), down
        self.register_buffer("blur", fast_conv.BLUR1 if down else None, persistent=False)

    def derive(self):
        weight = self.weight * self.weight_gain
        return (sum_of_shifts(weight) * 0.25 if self.down else weight), self.bias

    def forward(self, x):
        """x [N, I, H, W] -> [N, O, H, W], or [N, O, H/2, W/2] with `down`"""
        weight, bias = (t.to(x.dtype) for t in self.tensors())
        if self.down:
            x = filtered(x, self.blur, padding=1)  # [N, I, H, W]
        x = F.conv2d(x, weight, bias, padding=1, stride=2 if self.down else 1)
        return F.leaky_relu_(x, 0.2)


class DiscriminatorBlock1(nn.Module):
    """One resolution of StyleGAN1's discriminator: two convolutions, the second halves; at 4x4 one, and two dense layers."""

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
        """x [N, C, r, r], or the image [N, 3, R, R] in the first block -> [N, C', r/2, r/2], or scores [N, 1] in the last"""
        if hasattr(self, "fromrgb"):
            x = F.leaky_relu(self.fromrgb(x), 0.2)  # [N, C, R, R]
        if hasattr(self, "conv0"):
            return self.conv1(self.conv0(x))
        x = self.conv(minibatch_stddev(x)).float()  # [N, C, 4, 4]
        x = F.leaky_relu(self.fc(x.flatten(1)), 0.2)  # [N, C]
        return self.out(x)


# ---------------------------------------------------------------------------------------------------------------------
# StyleGAN2


class StyledConv2(Freezable):
    """StyleGAN2's layer: modulate, (up-)convolution, demodulate, noise, bias, leaky ReLU * sqrt 2.

    Karras et al. 2020, section 2.2, equations 1 and 3. The input is scaled instead of the weights, and the output divided by
    the norm of the scaled kernels: one convolution for the whole batch. The gain sqrt 2 goes into what comes before the
    leaky ReLU, which is homogeneous.
    """

    def __init__(self, fan_in, fan_out, w_dim, resolution, up=False, clamp=None):
        super().__init__()
        self.up, self.clamp, self.resolution = up, clamp, resolution
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, 3, 3))
        self.register_buffer("blur", fast_conv.BLUR2 if up else None, persistent=False)
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

    def make_kernels(self):
        return None if self.up else fast_conv.winograd_kernels(self.frozen[0], self.resolution)

    def forward(self, x, w, noise):
        """x [N, I, H, W], w [N, w_dim], noise [1 or N, 1, R, R] or None -> [N, O, R, R], R = resolution: 2H with `up`, else H."""
        if fast_conv.usable(self, x):
            return fast_conv.styled2(self, x, w, noise)
        weight, squares, bias, strength = self.tensors()
        style = self.affine(w)  # [N, I]
        demodulation = SQRT2 * (F.linear(style.square(), squares) + 1e-8).rsqrt()  # [N, O]
        style, demodulation = (t.to(x.dtype)[:, :, None, None] for t in (style, demodulation))
        x = x * style  # modulate: [N, I, H, W]
        if self.up:
            x = F.conv_transpose2d(x, weight.to(x.dtype), stride=2)  # [N, O, 2H + 1, 2W + 1]
            x = filtered(x, self.blur, padding=1)  # [N, O, 2H, 2W]
        else:
            x = F.conv2d(x, weight.to(x.dtype), padding=1)  # [N, O, H, W]
        offset = bias if noise is None else bias + strength * noise  # [O, 1, 1] or [1 or N, O, R, R]
        x = torch.addcmul(offset.to(x.dtype), x, demodulation)  # demodulate, noise, bias
        x = F.leaky_relu_(x, 0.2)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class ToRGB2(Freezable):
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
        """x [N, I, H, W], w [N, w_dim] -> [N, 3, H, W], float32"""
        weight, bias = self.tensors()
        weight = weight * self.affine(w)[:, None, :]  # [N, 3, I]: three maps only, so scale the weights
        y = torch.bmm(weight.to(x.dtype), x.flatten(2))  # [N, 3, H W]
        y = y.view(-1, 3, *x.shape[2:]).float() + bias.view(-1, 1, 1)
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
    """StyleGAN2's synthesis network: a learned constant, styled layers, and an image summed over the resolutions (figure 7b).

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
        """ws [N, L, 512] -> image [N, 3, R, R], about [-1, 1]; `noise` as in `noise_maps`, `dtype` of the convolutions."""
        check_ws(ws, self.config)
        x = self.b4.const.to(dtype).expand(len(ws), -1, -1, -1)  # [N, C, 4, 4]
        maps = noise_maps(self.layers(), noise, ws)  # L - 1 of [1 or N, 1, r, r], r = 4, 8, 8, ..., R, R
        image, i = None, 0
        for r in self.config.resolutions:
            block, recompute = getattr(self, f"b{r}"), r >= recompute_from
            for layer in [block.conv0, block.conv1] if r > 4 else [block.conv1]:
                x = apply_layer(layer, x, ws[:, i], maps[i], recompute=recompute)  # [N, C, r, r]
                i += 1
            rgb = apply_layer(block.torgb, x, ws[:, i], recompute=recompute)  # [N, 3, r, r]
            image = rgb if image is None else upsample(image) + rgb
        return image


class Conv2(Freezable):
    """The StyleGAN2 discriminator's convolution: bias, leaky ReLU * sqrt 2 * gain; `down`: filtered, then stride 2."""

    def __init__(self, fan_in, fan_out, kernel, bias=True, down=False, gain=1.0, clamp=None):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(fan_out)) if bias else None
        self.weight_gain, self.kernel, self.down, self.gain = 1 / math.sqrt(fan_in * kernel**2), kernel, down, gain
        self.clamp = clamp * gain if clamp is not None and bias else None
        self.register_buffer("blur", fast_conv.MEAN2 if down else None, persistent=False)

    def derive(self):
        gain = self.gain * (1 if self.bias is None else SQRT2)  # before a leaky ReLU as good as after it
        return self.weight * (self.weight_gain * gain), None if self.bias is None else self.bias * gain

    def forward(self, x):
        """x [N, I, H, W] -> [N, O, H, W], or [N, O, H/2, W/2] with `down`"""
        weight, bias = (None if t is None else t.to(x.dtype) for t in self.tensors())
        padding, stride = self.kernel // 2, 1
        if self.down and self.kernel == 1:
            x = filtered(x, self.blur, padding=1, stride=2)  # [N, I, H/2, W/2]
        elif self.down:
            x, padding, stride = filtered(x, self.blur, padding=2), 0, 2  # [N, I, H + 1, W + 1]
        x = F.conv2d(x, weight, bias, stride, padding)
        if bias is not None:
            x = F.leaky_relu_(x, 0.2)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class DiscriminatorBlock2(nn.Module):
    """One resolution of StyleGAN2's discriminator, residual (Karras et al. 2020, figure 7c); at 4x4 a convolution and two dense layers."""

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
        """x [N, C, r, r], or the image [N, 3, R, R] in the first block -> [N, C', r/2, r/2], or scores [N, 1] in the last"""
        if hasattr(self, "fromrgb"):
            x = self.fromrgb(x)  # [N, C, R, R]
        if hasattr(self, "conv0"):
            return self.skip(x) + self.conv1(self.conv0(x))
        x = self.conv(minibatch_stddev(x)).float()  # [N, C, 4, 4]
        x = F.leaky_relu(self.fc(x.flatten(1)), 0.2) * SQRT2  # [N, C]
        return self.out(x)


# ---------------------------------------------------------------------------------------------------------------------
# The networks

SYNTHESIS = {"stylegan1": Synthesis1, "stylegan2": Synthesis2}
DISCRIMINATOR_BLOCK = {"stylegan1": DiscriminatorBlock1, "stylegan2": DiscriminatorBlock2}


def check_ws(ws, config):
    """ValueError unless ws are [N, L, 512] of this generator's L."""
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
            if isinstance(module, Freezable):
                module.freeze()
        return self


class Generator(Network):
    """z -> w -> ws -> image, as a `Config` says."""

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
        ws = w[:, None].expand(-1, self.num_ws, -1) if w.ndim == 2 else w  # [N, L, 512]
        if psi == 1:
            return ws
        psis = torch.ones(self.num_ws, 1, device=ws.device, dtype=ws.dtype)  # [L, 1]
        psis[:cutoff] = psi
        return self.w_avg + psis * (ws - self.w_avg)

    def forward(self, z, truncation_psi=1.0, truncation_cutoff=None, noise="const", c=None):
        """z [N, 512] ~ N(0, 1), c as `Mapping` takes it -> images [N, 3, R, R], about [-1, 1]."""
        w = self.mapping(z, c)  # [N, 512]
        ws = self.truncate(w, truncation_psi, truncation_cutoff)  # [N, L, 512]
        return self.synthesis(ws, noise)


class Discriminator(Network):
    """Tells photographs from pictures of a generator: blocks from R x R down to 4x4."""

    def __init__(self, config):
        super().__init__()
        if config.c_dim:
            raise ValueError(f"a discriminator of {config.c_dim} classes; the toolkit knows, and trains, such without")
        self.config = config
        for r in config.resolutions:
            self.add_module(f"b{r}", DISCRIMINATOR_BLOCK[config.kind](config, r))

    def forward(self, image):
        """images [N, 3, R, R] in [-1, 1] -> scores [N, 1]; above 0: looks real."""
        for r in reversed(self.config.resolutions):
            image = getattr(self, f"b{r}")(image)  # [N, C, r/2, r/2]; [N, 1] after the last
        return image
