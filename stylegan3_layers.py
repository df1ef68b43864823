"""StyleGAN3 (Karras et al. 2021, "Alias-Free Generative Adversarial Networks"), T and R, in plain PyTorch.

Read from top to bottom: `Config3` and the frequencies that it gives each layer, the filters, the Fourier input, the layer,
`Synthesis3` and `Generator3`; last, what tells a checkpoint of others apart. Its mapping network is StyleGAN2's, with two layers.

A feature map stands for a continuous signal: it has a cutoff (what it holds), a stopband (what its filters let leak) and a rate
(samples for the width of the image), and a margin of samples around the image. No layer draws noise, and nothing but the Fourier
input says where a thing is: a transform of the input moves the picture (`Synthesis3.forward`).

Shapes: w [N, 512], ws [N, 16, 512] at every resolution (one for the input, one for each layer), images [N, 3, R, R], about [-1, 1].
Names are the official ones (`synthesis.input`, `synthesis.L0_36_512`: index, side and channels). Filters are designed, not stored.
The fast way of a layer's filters stands in `editor/filtered.py`: what stands here is the plain one.
"""

import functools
import math
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from editor import fast_conv, filtered
from editor.fast_conv import Freezable
from stylegan_layers import SQRT2, Dense, Generator, Mapping, Network, apply_layer, check_ws, noise_maps

LIMITS = {  # what a file declares is looked at before anything of that size is made
    "resolution": (16, 1024),
    "channel_base": (1, 1 << 24),
    "channel_max": (1, 8192),
    "mapping_layers": (1, 64),
    "z_dim": (1, 8192),
    "w_dim": (1, 8192),
    "c_dim": (0, 8192),
    "num_layers": (3, 64),
    "num_critical": (1, 16),
    "margin_size": (0, 64),
    "filter_size": (2, 16),
}
POSITIVE = ("first_cutoff", "first_stopband", "last_stopband_rel", "output_scale", "conv_clamp")
CHOICES = {
    "resolution": tuple(2**j for j in range(4, 11)),
    "conv_kernel": (1, 3),
    "lrelu_upsampling": (1, 2, 4),
    "use_radial_filters": (True, False),
}


@dataclass(frozen=True)
class Config3:
    """What a StyleGAN3 checkpoint says of its networks; or ValueError. Names and defaults are the official ones of T.

    R (which turns with its input, too) has 1x1 convolutions, radial filters, and channel_base and channel_max doubled.
    """

    kind: str  # stylegan3
    resolution: int
    channel_base: int = 32768
    channel_max: int = 512
    mapping_layers: int = 2
    z_dim: int = 512
    w_dim: int = 512
    c_dim: int = 0  # classes of a conditional generator
    conv_kernel: int = 3
    use_radial_filters: bool = False
    conv_clamp: float | None = 256
    num_layers: int = 14  # without ToRGB
    num_critical: int = 2  # layers at the end whose filters cut at half the rate
    first_cutoff: float = 2.0  # periods over the width of the image, as are all frequencies here
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3
    margin_size: int = 10
    output_scale: float = 0.25
    filter_size: int = 6  # taps for each sample of the lower rate
    lrelu_upsampling: int = 2

    def __post_init__(self):
        if self.kind != "stylegan3":
            raise ValueError(f"network kind {self.kind!r:.40}; here it must be stylegan3")
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} {value!r:.40}; it must be a whole number from {least} to {most}")
        for name in POSITIVE:
            value = getattr(self, name)
            if value is None and name == "conv_clamp":
                continue
            if type(value) not in (int, float) or not 0 < value <= 1e6:
                raise ValueError(f"{name} {value!r:.40}; it must be a number above 0, up to a million")
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if type(value) is not type(known[0]) or value not in known:
                raise ValueError(f"{name} {value!r:.40}; it must be one of {', '.join(map(str, known))}")
        if self.filter_size % 2:
            raise ValueError(f"filter_size {self.filter_size}; it must be even")
        if self.num_critical >= self.num_layers:
            raise ValueError(f"num_critical {self.num_critical}; it must be below num_layers, {self.num_layers}")
        if not self.first_cutoff < self.first_stopband <= self.resolution or self.first_cutoff > self.resolution / 4:
            raise ValueError(
                f"first_cutoff {self.first_cutoff} and first_stopband {self.first_stopband}; "
                f"the first must be below the second, and at most a quarter of {self.resolution}"
            )
        if not 1 <= self.last_stopband_rel <= 4:
            raise ValueError(f"last_stopband_rel {self.last_stopband_rel}; it must be from 1 to 4")
        if min(place.channels for place in self.places) < 1:
            raise ValueError(f"channel_base {self.channel_base} leaves no channels at {self.resolution}x{self.resolution}")

    @property
    def num_ws(self):
        """L: how many w the synthesis network takes."""
        return self.num_layers + 2

    @property
    def resolutions(self):
        """None: its layers are no blocks of one resolution each (see `places`)."""
        return []

    @functools.cached_property
    def places(self):
        """The signal after each layer, ToRGB's the last: `num_layers` + 1 of `Place` (figure 4 of the paper)."""
        last, found = self.resolution / 2, []
        last_stopband = last * self.last_stopband_rel
        for i in range(self.num_layers + 1):
            e = min(i / (self.num_layers - self.num_critical), 1)
            cutoff = self.first_cutoff * (last / self.first_cutoff) ** e
            stopband = self.first_stopband * (last_stopband / self.first_stopband) ** e
            rate = 2 ** math.ceil(math.log2(min(2 * stopband, self.resolution)))
            size = rate + 2 * self.margin_size if i < self.num_layers - 1 else self.resolution
            channels = 3 if i == self.num_layers else round(min(self.channel_base / 2 / cutoff, self.channel_max))
            found.append(Place(cutoff, max(stopband, rate / 2) - cutoff, rate, size, channels))
        return found


@dataclass(frozen=True)
class Place:
    """A signal: cutoff, half the width of the transition band, and rate, in periods and samples over the image; side; channels."""

    cutoff: float
    half_width: float
    rate: int
    size: int
    channels: int


# ---------------------------------------------------------------------------------------------------------------------
# Filters


@functools.lru_cache(maxsize=256)
def low_pass(taps, cutoff, half_width, rate, radial=False):
    """A low-pass filter of sum 1, float64: [taps], or with `radial` [taps, taps], alike in all directions.

    Args:
        cutoff: where it lets half through, in periods over the image.
        half_width: of its transition band, in the same unit.
        rate: the samples over the image.
    """
    attenuation = 2.285 * (taps - 1) * math.pi * 2 * half_width / (rate / 2) + 7.95  # decibels, Kaiser's estimate
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    else:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21) if attenuation > 21 else 0.0
    t = torch.arange(taps, dtype=torch.float64, device="cpu") - (taps - 1) / 2  # in samples, from the middle
    inside = (1 - (2 * t / (taps - 1)).square()).clamp(min=0)
    window = torch.special.i0(beta * inside.sqrt())
    x = t / rate
    if radial:
        r = torch.hypot(x[:, None], x)
        taps = torch.special.bessel_j1(2 * math.pi * cutoff * r) / r * window[:, None] * window  # an even number: no tap has r = 0
    else:
        taps = torch.sinc(2 * cutoff * x) * window
    return taps / taps.sum()


@dataclass(frozen=True)
class Sampling:
    """The filters around a layer's leaky ReLU: from `before` up to a rate at which it makes little aliasing, and down to `after`.

    radial: the down-sampling filter is. kernel: side of the convolution before, which makes the map larger by kernel - 1.
    """

    before: Place
    after: Place
    kernel: int
    filter_size: int
    upsampling: int
    radial: bool

    rate = property(lambda self: max(self.before.rate, self.after.rate) * self.upsampling)
    up = property(lambda self: self.rate // self.before.rate)
    down = property(lambda self: self.rate // self.after.rate)
    size = property(lambda self: self.before.size + self.kernel - 1)  # of what comes in
    out_size = property(lambda self: self.after.size)

    @property
    def up_filter(self):
        """[taps] of sum 1, float64; one tap where nothing is up-sampled."""
        if self.up == 1:
            return torch.ones(1, dtype=torch.float64)
        return low_pass(self.filter_size * self.up, self.before.cutoff, self.before.half_width, self.rate)

    @property
    def down_filter(self):
        """[taps] or [taps, taps] of sum 1, float64; one tap where nothing is down-sampled."""
        if self.down == 1:
            return torch.ones(1, dtype=torch.float64)
        return low_pass(self.filter_size * self.down, self.after.cutoff, self.after.half_width, self.rate, self.radial)

    @property
    def padding(self):
        """(before, after): zeros around the samples that zeros were put between; negative ones cut off."""
        taps = len(self.up_filter) + len(self.down_filter)
        total = (self.out_size - 1) * self.down + 1 - self.size * self.up + taps - 2
        low = (total + self.up) // 2
        return low, total - low


# ---------------------------------------------------------------------------------------------------------------------
# Layers


class FourierInput(nn.Module):
    """The input: waves of fixed random frequencies, turned and shifted as w says, then mixed (section 3 of the paper).

    `transform` [3, 3] is the user's, kept with the checkpoint: where a pixel's place is taken from, in widths of the image, y down.
    """

    def __init__(self, place, w_dim):
        super().__init__()
        self.place, channels = place, place.channels
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = Dense(w_dim, 4)  # cosine and sine of the turn, not normalised, and the shift
        self.affine.weight = nn.Parameter(torch.zeros(4, w_dim))
        self.affine.bias = nn.Parameter(torch.tensor([1.0, 0, 0, 0]))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", torch.randn(channels, 2))  # periods over the image, (x, y)
        self.register_buffer("phases", torch.randn(channels))  # in turns

    def forward(self, w, transform=None):
        """w [N, w_dim], transform [3, 3] or [N, 3, 3] or None (its own) -> [N, C, S, S], S the side with its margin"""
        t = self.affine(w)
        t = t / t[:, :2].norm(dim=1, keepdim=True)  # [N, 4]: cosine, sine, shift in x and y
        zero, one = torch.zeros_like(t[:, 0]), torch.ones_like(t[:, 0])
        turn = torch.stack([t[:, 0], -t[:, 1], zero, t[:, 1], t[:, 0], zero, zero, zero, one], 1).view(-1, 3, 3)
        shift = torch.stack([one, zero, -t[:, 2], zero, one, -t[:, 3], zero, zero, one], 1).view(-1, 3, 3)
        moved = turn @ shift @ (self.transform if transform is None else transform.to(t))  # [N, 3, 3]: the user's comes first
        phases = self.phases + (self.freqs @ moved[:, :2, 2:]).squeeze(2)  # [N, C]
        freqs = self.freqs @ moved[:, :2, :2]  # [N, C, 2]
        rate, size, cutoff = self.place.rate, self.place.size, self.place.cutoff
        amplitudes = (1 - (freqs.norm(dim=2) - cutoff) / (rate / 2 - cutoff)).clamp(0, 1)  # what a transform makes too fine fades out
        at = (torch.arange(size, device=w.device, dtype=w.dtype) + 0.5 - size / 2) / rate  # [S], pixels' centres
        turns = freqs[..., 0, None, None] * at + freqs[..., 1, None, None] * at[:, None] + phases[..., None, None]  # [N, C, S, S]
        x = torch.sin(turns * (2 * math.pi)) * amplitudes[..., None, None]
        mixed = (self.weight / math.sqrt(len(self.weight))) @ x.flatten(2)  # [N, C, S S]
        return mixed.view_as(x)


def resampled(x, taps, up, down, padding):
    """x [N, C, H, W], zeros put between its samples (`up`), padded, filtered, every `down`-th kept -> [N, C, H', W'].

    taps: [k], for both sides in turn, or [k, k].
    """
    n, c, h, w = x.shape
    if up > 1:
        x = torch.stack([x] + [torch.zeros_like(x)] * (up - 1), 4).view(n, c, h, w * up)
        x = torch.stack([x] + [torch.zeros_like(x)] * (up - 1), 3).view(n, c, h * up, w * up)
    x = F.pad(x, (*padding, *padding))
    for kernel in [taps] if taps.ndim == 2 else [taps[None], taps[:, None]]:
        stride = [down if side > 1 else 1 for side in kernel.shape]
        if kernel.numel() > 1:
            x = F.conv2d(x, kernel.to(x).expand(c, 1, -1, -1), stride=stride, groups=c)
    return x


def filtered_leaky_relu(x, bias, sampling, slope, clamp):
    """x [N, C, S, S], bias [C, 1, 1] -> [N, C, S', S']: a leaky ReLU at a rate that holds what it adds (section 3.2)."""
    x = resampled(x + bias, sampling.up_filter * sampling.up, sampling.up, 1, sampling.padding)  # the gain makes up for the zeros
    x = F.leaky_relu(x, slope)
    x = x if clamp is None else x.clamp(-clamp, clamp)
    return resampled(x, sampling.down_filter, 1, sampling.down, (0, 0))


def modulated_conv(layer, x, style):
    """The convolution of a `FilteredConv`, x [N, I, S, S], style [N, I] -> [N, O, S + k - 1, S + k - 1] without bias."""
    weight, squares, _ = layer.tensors()
    if not layer.torgb:
        style = style * style.square().mean(dim=1, keepdim=True).rsqrt()
    x = F.conv2d(x * style.to(x.dtype)[:, :, None, None], weight.to(x.dtype), padding=weight.shape[2] - 1)
    if layer.torgb:
        return x
    demodulation = layer.gain * (F.linear(style.square(), squares) + 1e-8).rsqrt()  # [N, O]
    return x * demodulation.to(x.dtype)[:, :, None, None]


class FilteredConv(Freezable):
    """StyleGAN3's layer: modulate, convolution, demodulate, bias, filtered leaky ReLU * sqrt 2.

    The kernels are of mean square 1, and so is the style, before they meet: only their direction counts. The input is
    scaled instead of the kernels, and the output divided by the norm of the scaled ones: one convolution for the whole batch.
    `magnitude_ema` is the mean square of the input as training saw it; the gain sqrt 2 goes into what comes before the leaky ReLU.
    ToRGB has no demodulation, no leaky ReLU and no filters.
    """

    def __init__(self, fan_in, w_dim, sampling, clamp=None, torgb=False):
        super().__init__()
        self.sampling, self.clamp, self.torgb, k = sampling, clamp, torgb, sampling.kernel
        self.resolution = sampling.out_size
        self.weight = nn.Parameter(torch.randn(sampling.after.channels, fan_in, k, k))
        self.bias = nn.Parameter(torch.zeros(sampling.after.channels))
        self.affine = Dense(w_dim, fan_in, bias_init=1.0)
        self.register_buffer("magnitude_ema", torch.ones([]))
        self.slope, self.gain = (1.0, 1.0) if torgb else (0.2, SQRT2)

    def derive(self):
        input_gain = self.magnitude_ema.rsqrt()
        if self.torgb:
            weight, squares = self.weight / math.sqrt(self.weight[0].numel()), None
        else:
            weight = self.weight * self.weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
            squares = weight.square().sum(dim=(2, 3))  # [O, I]
        return weight * input_gain, squares, self.gain * self.bias.view(-1, 1, 1)

    def forward(self, x, w):
        """x [N, I, S, S], w [N, w_dim] -> [N, O, S', S']; ToRGB's [N, 3, R, R]"""
        style, bias = self.affine(w), self.tensors()[2].to(x.dtype)  # [N, I], [O, 1, 1]
        convolve = filtered.modulated_conv if fast_conv.usable(self, x) else modulated_conv
        activate = filtered.filtered_leaky_relu if filtered.usable(self.sampling) and not self.torgb else filtered_leaky_relu
        return activate(convolve(self, x, style), bias, self.sampling, self.slope, self.clamp)


# ---------------------------------------------------------------------------------------------------------------------
# The networks


class Synthesis3(nn.Module):
    """StyleGAN3's synthesis network: the Fourier input, layers of growing cutoff, ToRGB (figure 4).

    Layers whose side is `recompute_from` or more keep only their input for the backward pass (less memory, more time).
    """

    def __init__(self, config):
        super().__init__()
        self.config, places = config, config.places
        self.input = FourierInput(places[0], config.w_dim)
        self.names = []  # of the layers, in order; the first takes ws[:, 1]
        for i, after in enumerate(places):
            torgb, critical = i == config.num_layers, i >= config.num_layers - config.num_critical
            before, kernel, upsampling = places[max(i - 1, 0)], config.conv_kernel, config.lrelu_upsampling
            radial = config.use_radial_filters and not critical
            sampling = Sampling(before, after, 1 if torgb else kernel, config.filter_size, 1 if torgb else upsampling, radial)
            self.names.append(f"L{i}_{after.size}_{after.channels}")
            self.add_module(self.names[-1], FilteredConv(before.channels, config.w_dim, sampling, config.conv_clamp, torgb))

    def layers(self):
        """The layers that take noise: none."""
        return []

    def forward(self, ws, noise="const", dtype=torch.float32, recompute_from=math.inf, transform=None):
        """ws [N, L, 512] -> image [N, 3, R, R], about [-1, 1].

        Args:
            noise: "const", "random", "none" or a list of no maps: all the same.
            dtype: of the convolutions, but ToRGB's.
            transform: [3, 3] or [N, 3, 3], where each pixel's place is taken from: the inverse of the motion that is wanted, in widths
                of the image, x to the right and y down, (0, 0) in the middle. Default: the checkpoint's own.
        """
        check_ws(ws, self.config)
        noise_maps(self.layers(), noise, ws)
        if transform is not None and (transform.shape not in ((3, 3), (len(ws), 3, 3)) or not transform.isfinite().all()):
            raise ValueError(f"transform of shape {list(transform.shape)}; it must be [3, 3] or [{len(ws)}, 3, 3], of finite numbers")
        x = self.input(ws[:, 0], transform).to(dtype)  # [N, C, S, S]
        for i, name in enumerate(self.names):
            layer = getattr(self, name)
            x = x.float() if layer.torgb and dtype != torch.float64 else x
            x = apply_layer(layer, x, ws[:, i + 1], recompute=layer.resolution >= recompute_from)  # [N, C', S', S']
        return x * self.config.output_scale


class Generator3(Generator):
    """z -> w -> ws -> image, as `Generator`.

    Args:
        config: a `Config3`.
    """

    def __init__(self, config):
        Network.__init__(self)
        self.config = config
        self.mapping = Mapping(config)
        self.synthesis = Synthesis3(config)


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints of others

FILTER = re.compile(r"synthesis\.(L\d+_\d+_\d+)\.(up|down)_filter")
LAYER = re.compile(r"synthesis\.L(\d{1,3})_(\d{1,5})_(\d{1,5})\.weight")


def infer(state):
    """The `Config3` of a state dict {official name: tensor} that comes without settings; settings that leave no trace have their defaults.

    Raises:
        ValueError: no StyleGAN3 generator, or one of other settings than these.
    """
    layers = sorted((*map(int, match.groups()), tuple(state[name].shape)) for name in state if (match := LAYER.fullmatch(name)))
    needed = ("mapping.fc0.weight", "synthesis.input.weight", "synthesis.input.affine.weight")
    missing = [name for name in needed if name not in state] + ([] if layers else ["synthesis.L0_..."])
    if missing:
        raise ValueError(f"no StyleGAN3 generator: {missing[0]} is missing")
    if any(len(state[name].shape) != 2 for name in needed) or any(len(shape) != 4 for *_, shape in layers):
        raise ValueError("no StyleGAN3 generator: its weights are of other shapes")
    kernel, channels = layers[0][3][2], [channels for _, _, channels, _ in layers[:-1]]
    w_dim, z_dim = state["mapping.fc0.weight"].shape
    classes = state["mapping.embed.weight"].shape[1] if "mapping.embed.weight" in state else 0
    found = [state[name] for name in state if (match := FILTER.fullmatch(name)) and match[2] == "down"]
    settings = {
        "resolution": layers[-1][1],
        "channel_max": channels[0],
        "mapping_layers": sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in state),
        "z_dim": z_dim - (w_dim if classes else 0),
        "w_dim": w_dim,
        "c_dim": classes,
        "conv_kernel": kernel,
        "use_radial_filters": any(taps.ndim == 2 for taps in found) if found else kernel == 1,
        "num_layers": len(layers) - 1,
    }
    config = Config3("stylegan3", channel_base=1 << 24, **settings)  # of as many channels as allowed: for the cutoffs
    config = Config3("stylegan3", channel_base=channel_base(config.places, channels), **settings)
    made = [(i, place.size, place.channels) for i, place in enumerate(config.places)]
    if made != [layer[:3] for layer in layers]:
        wrong = next((a, b) for a, b in zip(layers, made, strict=True) if a[:3] != b)
        names = ["L{}_{}_{}".format(*layer[:3]) for layer in wrong]
        raise ValueError(f"a StyleGAN3 of settings that its names do not say: {names[0]} would be {names[1]}")
    return config


def channel_base(places, channels):
    """The channel_base that gives layers of these cutoffs these channels: a power of two where one does, else the middle one."""
    capped = max(channels)
    least = max([2 * p.cutoff * (c - 0.5) for p, c in zip(places, channels, strict=False)])
    most = min([2 * p.cutoff * (c + 0.5) for p, c in zip(places, channels, strict=False) if c < capped], default=math.inf)
    power = 1 << max(0, math.ceil(least) - 1).bit_length()
    return power if power <= most else round((least + most) / 2)


def check_filters(network, state, most=1e-6):
    """ValueError that names a layer, unless the filters that a state dict stores are those that its network designs.

    Args:
        network: a `Generator3`, which may be without memory.
        state: {official name: tensor}; it may hold some of the filters, or none.
        most: how far they may be off, in parts of the largest tap.
    """
    for name in state:
        if not (match := FILTER.fullmatch(name)):
            continue
        layer = getattr(network.synthesis, match[1], None)
        if layer is None:
            raise ValueError(f"{name}: this network has no such layer")
        taps = layer.sampling.up_filter if match[2] == "up" else layer.sampling.down_filter
        stored = state[name].double().cpu()
        if stored.shape != taps.shape:
            raise ValueError(f"{name} is {list(stored.shape)}; by its settings it would be {list(taps.shape)}")
        if not (off := (stored - taps).abs().max() / taps.abs().max()) <= most:
            raise ValueError(f"{name} differs from what its settings give by {off:.1e} of the largest tap; at most {most:g} was expected")


def filters(network):
    """{official name: taps, float64} of a `Generator3`, as a state dict of others stores them: all of more than one tap."""
    found = {}
    for name in network.synthesis.names:
        sampling = getattr(network.synthesis, name).sampling
        found |= {f"synthesis.{name}.{way}_filter": getattr(sampling, f"{way}_filter") for way in ("up", "down")}
    return {name: taps for name, taps in found.items() if len(taps) > 1}
