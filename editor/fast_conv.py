"""Fast ways of layers with fixed weights: only the image, the style and the noise have gradients.

The plain ways stand in stylegan_layers.py and perceptual_model.py; tests/test_fast.py holds what is here to them, outputs and
gradients. From top to bottom: sums that are alike in any batch, convolutions, the two styled layers.

PyTorch keeps the input of every convolution for the gradient of its weights; with frozen weights that is memory for
nothing. And on a CPU its 3x3 convolutions of many channels do two to three times the multiplications that Winograd's
way needs. What is computed is the same to float32 rounding; Winograd's sums (rounding 30 times larger, 4e-5 of the
output's spread) are taken only where a gradient is asked for: pictures come out of PyTorch's own convolution.

On a CPU an image of the bundled generator is computed alike to the last bit whatever else is in its batch. PyTorch's
libraries do not grant that: they choose their way, and with it the order of sums, by the number of images, wherever there
is little to do for each; and hundreds of steps of Adam make tenths of a decibel of one bit. So `image_by_image` and `linear`
leave them no choice.
"""

import copy
import math
import threading

import torch
import torch.nn.functional as F
from torch import nn

WINOGRAD_FROM = 128  # channels; below, its transforms cost more than it saves (measured, benchmarks/README.md)
SMALLEST = 16  # side; below, PyTorch's own is as fast
SEPARATE_UP_TO = 8  # side; above, PyTorch's 3x3 convolutions are alike in any batch where channels are multiples of 16 (found by trying)
ROWS = 8  # matrices of so many rows, or a multiple, are multiplied alike
MAKING = threading.Lock()  # held while a layer's kernels are made

BLUR1 = torch.tensor([1.0, 2, 1]).outer(torch.tensor([1.0, 2, 1])) / 16  # StyleGAN1's filter, [3, 3]
BLUR2 = torch.tensor([1.0, 3, 3, 1]).outer(torch.tensor([1.0, 3, 3, 1])) / 16  # StyleGAN2's, [4, 4], times 4 for the zeros between pixels
MEAN2 = BLUR2 / 4  # the same of sum 1, as its discriminator takes it

# F(4x4, 3x3) of Lavin & Gray 2016: d -> B^T d B, kernel -> G g G^T, product -> A^T m A, each as one matrix for both sides
_B = torch.tensor(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
).double()
_G = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]).double() / 24
_A = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]).double()
INPUT, KERNEL, OUTPUT = (torch.kron(m, m) for m in (_B, _G, _A))  # [36, 36], [36, 9], [16, 36]
INPUT, OUTPUT = INPUT.float(), OUTPUT.float()
INPUT_BACK, OUTPUT_BACK = INPUT.t().contiguous(), OUTPUT.t().contiguous()


class Freezable(nn.Module):
    """A layer that computes with tensors derived from its parameters: anew in training, once when frozen.

    A layer has `derive()`, which returns them; `tensors()` is what forward uses. `freeze()` keeps them until `train()` or
    new weights. `fast_kernels()` are the frozen weights as a fast convolution takes them, `kernels` what is made of them so far:
    who only renders asks for no gradient, and never waits for Winograd's (119 MiB of a StyleGAN2 at 1024).
    """

    frozen = kernels = None

    def tensors(self):
        return self.derive() if self.frozen is None else self.frozen

    def make_kernels(self):
        """The frozen weights as a fast convolution takes them, or None where there is none."""
        return None

    def fast_kernels(self):
        """`kernels`, made when they are first asked for; by one thread, where several share the layer (`parallel`)."""
        if self.kernels is None and self.frozen is not None:
            with MAKING, torch.no_grad():
                if self.kernels is None:
                    self.kernels = self.make_kernels()
        return self.kernels

    def freeze(self):
        with torch.no_grad():
            self.frozen, self.kernels = self.derive(), None

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
            self.kernels = None
        return self


def branch(module):
    """A module of its own with the parts and the parameters of another."""
    other = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict):  # its parts, parameters, hooks
            setattr(other, name, copy.copy(value))
    return other


def own_part(net, name, made):
    """A part of a `branch` by its dotted name, with all that leads to it branched as well, each once: they are kept in `made`."""
    path = name.split(".")
    for depth, part in enumerate(path, 1):
        key = tuple(path[:depth])
        if key not in made:
            made[key] = branch(getattr(net, part))
            setattr(net, part, made[key])
        net = made[key]
    return net


def usable(layer, x):
    """Whether a layer of stylegan_layers may take its fast way: frozen, float32, and not being compiled (which fuses by itself)."""
    return layer.frozen is not None and x.dtype == layer.bias.dtype == torch.float32 and not torch.compiler.is_compiling()


# ---------------------------------------------------------------------------------------------------------------------
# Sums that are alike in any batch


def image_by_image(f, *tensors, always=False):
    """f(*tensors), each [N, ...], -> [N, ...]: on a CPU one image at a time where maps are small, or `always`."""
    x = tensors[0]
    small = always or max(x.shape[2:]) <= SEPARATE_UP_TO
    if len(x) == 1 or x.device.type != "cpu" or torch.compiler.is_compiling() or not small:
        return f(*tensors)
    return torch.cat([f(*parts) for parts in zip(*(t.split(1) for t in tensors), strict=True)])


def linear(x, weight, bias=None):
    """x [N, I], weight [O, I], bias [O] -> [N, O], as `F.linear`; on a CPU N is filled up to a multiple of ROWS."""
    if x.device.type != "cpu":
        return F.linear(x, weight, bias)
    return F.linear(F.pad(x, (0, 0, 0, -len(x) % ROWS)), weight, bias)[: len(x)]


def mean_squared_error(a, b):
    """Mean squared difference of each image, [N, ...] and [N or 1, ...] -> [N]."""
    return image_by_image(lambda d: d.square().flatten(1).mean(1), a - b, always=True)


def channel_sums(a, b):
    """Sum over the pixels of a * b, [N, C, H, W] each (b: C or 1 channels) -> [N, C, 1, 1], in one pass over memory."""
    sums = "nchw,nchw->nc" if b.shape[1] > 1 else "nchw,nxhw->nc"
    return image_by_image(lambda a, b: torch.einsum(sums, a, b), a, b, always=True)[:, :, None, None]


# ---------------------------------------------------------------------------------------------------------------------
# Convolutions


def pointwise(conv, x):
    """A 1x1 `nn.Conv2d` as one product of matrices an image, x [N, I, H, W] -> [N, O, H, W]: faster on a CPU, alike in any batch."""
    return (conv.weight.flatten(1) @ x.flatten(2)).unflatten(2, x.shape[2:]) + conv.bias.view(-1, 1, 1)


def winograd_kernels(weight, side=SMALLEST):
    """3x3 kernels [O, I, 3, 3] -> [36, O, I] for `conv` on maps of `side` pixels, or None where Winograd does not pay."""
    outputs, inputs = weight.shape[:2]
    if side < SMALLEST or weight.device.type != "cpu" or weight.dtype != torch.float32 or min(outputs, inputs) < WINOGRAD_FROM:
        return None
    flat = weight.detach().double().reshape(outputs * inputs, 9)
    return (KERNEL @ flat.t()).float().view(36, outputs, inputs)


def winograd_fits(x, kernels):
    """Whether Winograd's way is open: kernels transformed, and sides that its 4x4 tiles cover well."""
    return kernels is not None and x.shape[2] % 4 == x.shape[3] % 4 == 0 and min(x.shape[2:]) >= SMALLEST


def winograd(x, kernels):
    """x [N, I, H, W] -> [N, O, H, W], as `F.conv2d(x, weight, padding=1)`."""
    n, channels, h, w = x.shape
    tiles = F.pad(x, (1, 1, 1, 1)).unfold(2, 6, 4).unfold(3, 6, 4)  # [N, I, H/4, W/4, 6, 6]
    tiles = tiles.permute(4, 5, 1, 0, 2, 3).reshape(36, -1)
    products = torch.bmm(kernels, (INPUT @ tiles).view(36, channels, -1))
    y = (OUTPUT @ products.view(36, -1)).view(4, 4, kernels.shape[1], n, h // 4, w // 4)
    return y.permute(3, 2, 4, 0, 5, 1).reshape(n, -1, h, w)


def winograd_back(g, kernels):
    """The transposed map: gradient of the output [N, O, H, W] -> of the input [N, I, H, W]."""
    n, channels, h, w = g.shape
    tiles = g.reshape(n, channels, h // 4, 4, w // 4, 4).permute(3, 5, 1, 0, 2, 4).reshape(16, -1)
    products = torch.bmm(kernels.transpose(1, 2), (OUTPUT_BACK @ tiles).view(36, channels, -1))
    tiles = (INPUT_BACK @ products.view(36, -1)).view(6, 6, -1, n, h // 4, w // 4).permute(3, 2, 4, 0, 5, 1)  # [N, I, H/4, 6, W/4, 6]
    sums = g.new_zeros(n, tiles.shape[1], h // 4 + 1, 4, w // 4 + 1, 4)
    for rows, down in ((slice(0, 4), 0), (slice(4, 6), 1)):  # a tile's last two rows and columns lie in the next one
        for columns, right in ((slice(0, 4), 0), (slice(4, 6), 1)):
            part = tiles[:, :, :, rows, :, columns]
            sums[:, :, down : down + h // 4, : part.shape[3], right : right + w // 4, : part.shape[5]] += part
    return sums.reshape(n, -1, h + 4, w + 4)[:, :, 1 : h + 1, 1 : w + 1]


class Conv(torch.autograd.Function):
    """3x3 or 1x1 convolution that keeps the side; `kernels`: what `winograd_kernels` made of the weight, or None."""

    @staticmethod
    def forward(ctx, x, weight, bias, kernels):
        padding = weight.shape[2] // 2
        if kernels is not None:
            ctx.save_for_backward(kernels)
            y = winograd(x, kernels)
            return y if bias is None else y.add_(bias.view(-1, 1, 1))
        ctx.save_for_backward(weight)
        return image_by_image(lambda x: F.conv2d(x, weight, bias, padding=padding), x)

    @staticmethod
    def backward(ctx, g):
        (weight,) = ctx.saved_tensors
        if weight.ndim == 3:
            return winograd_back(g, weight), None, None, None
        return image_by_image(lambda g: F.conv_transpose2d(g, weight, padding=weight.shape[2] // 2), g), None, None, None


def conv(x, weight, bias=None, kernels=None):
    """x [N, I, H, W] with fixed weight [O, I, k, k] (k 1 or 3) and bias [O] -> [N, O, H, W].

    `kernels`: a function that gives the weight as `winograd_kernels` does; it is asked only where a gradient is.
    """
    fast = kernels() if kernels and torch.is_grad_enabled() and x.requires_grad else None
    return Conv.apply(x, weight, bias, fast if winograd_fits(x, fast) else None)


class Conv3(nn.Conv2d):
    """A 3x3 convolution of padding 1 that takes `conv` while its weights are frozen."""

    kernels = None

    def __init__(self, fan_in, fan_out):
        super().__init__(fan_in, fan_out, 3, padding=1)

    def forward(self, x):
        if self.weight.requires_grad or torch.compiler.is_compiling():
            return super().forward(x)
        return conv(x, self.weight, self.bias, self.fast_kernels)

    def fast_kernels(self):
        """As `Freezable.fast_kernels`."""
        if self.kernels is None:
            with MAKING:
                if self.kernels is None:
                    self.kernels = winograd_kernels(self.weight)
        return self.kernels

    def _apply(self, fn, recurse=True):  # moved, or another number format
        self.kernels = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args):
        self.kernels = None
        super()._load_from_state_dict(*args)


class UpConv(torch.autograd.Function):
    """Transposed convolution of stride 2, weight [I, O, k, k].

    4x4 kernels with padding 1 may be given as `phases` [4 O, I, 2, 2] too (`phase_kernels`): four 2x2 convolutions, one for each
    place in a 2x2 square of the output.
    """

    @staticmethod
    def forward(ctx, x, weight, phases, padding):
        ctx.save_for_backward(weight)
        ctx.padding = padding
        if phases is None:
            return image_by_image(lambda x: F.conv_transpose2d(x, weight, stride=2, padding=padding), x)
        n, _, h, w = x.shape
        each = F.conv2d(x, phases, padding=1).view(n, 2, 2, -1, h + 1, w + 1)
        y = x.new_empty(n, each.shape[3], h, 2, w, 2)
        for p in (0, 1):
            for q in (0, 1):
                y[:, :, :, p, :, q] = each[:, p, q, :, p : p + h, q : q + w]
        return y.view(n, -1, 2 * h, 2 * w)

    @staticmethod
    def backward(ctx, g):
        return F.conv2d(g, ctx.saved_tensors[0], stride=2, padding=ctx.padding), None, None, None


def phase_kernels(weight):
    """4x4 kernels [I, O, 4, 4] -> [4 O, I, 2, 2], or None where PyTorch's transposed convolution is as fast (many channels; GPUs)."""
    if weight.device.type != "cpu" or weight.shape[0] > 128:
        return None
    taps = ([3, 1], [2, 0])  # the rows of the kernel that meet an even, an odd row of the output
    weight = weight.detach()
    return torch.cat([weight[:, :, rows][:, :, :, columns].transpose(0, 1) for rows in taps for columns in taps]).contiguous()


class Blur(torch.autograd.Function):
    """Each channel of x [N, C, H, W] filtered with one symmetric kernel [k, k] and fixed bias [C] or None."""

    @staticmethod
    def forward(ctx, x, kernel, bias, padding):
        ctx.save_for_backward(kernel)
        ctx.padding = padding
        return F.conv2d(x, kernel.expand(x.shape[1], 1, -1, -1), bias, padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx, g):
        (kernel,) = ctx.saved_tensors
        channels, padding = g.shape[1], kernel.shape[0] - 1 - ctx.padding
        return F.conv2d(g, kernel.expand(channels, 1, -1, -1), padding=padding, groups=channels), None, None, None


# ---------------------------------------------------------------------------------------------------------------------
# The styled layers


class Epilogue1(torch.autograd.Function):
    """What follows StyleGAN1's convolution: noise, leaky ReLU, instance norm, style, in five passes over memory.

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
        mean, inverse = mean[..., None], inverse[..., None]  # [N, C, 1, 1], of 1 / standard deviation
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


def styled1(layer, x, w, noise):
    """`stylegan_layers.StyledConv1.forward`."""
    weight, bias, strength = layer.tensors()
    if layer.up:
        x = UpConv.apply(x, weight, layer.fast_kernels(), 1)  # [N, O, 2H, 2W]
        x = Blur.apply(x, layer.blur, bias, 1)
    elif weight is not None:
        x = conv(x, weight, bias, layer.fast_kernels)
    else:
        x = x + bias.view(-1, 1, 1)
    scale, shift = layer.affine(w).view(len(w), 2, -1, 1, 1).unbind(1)  # [N, O, 1, 1] each
    return Epilogue1.apply(x, noise, strength, scale, shift)


class Modulate(torch.autograd.Function):
    """x [N, C, H, W] * style [N, C, 1, 1]; the gradient of the style in one pass over memory."""

    @staticmethod
    def forward(ctx, x, style):
        ctx.save_for_backward(x, style)
        return x * style

    @staticmethod
    def backward(ctx, g):
        x, style = ctx.saved_tensors
        return (g * style if ctx.needs_input_grad[0] else None), channel_sums(g, x)


class Epilogue2(torch.autograd.Function):
    """What follows StyleGAN2's convolution: demodulation, noise, bias, leaky ReLU.

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


def styled2(layer, x, w, noise):
    """`stylegan_layers.StyledConv2.forward`."""
    weight, squares, bias, strength = layer.tensors()
    style = layer.affine(w)  # [N, I]
    demodulation = math.sqrt(2) * (linear(style.square(), squares) + 1e-8).rsqrt()  # [N, O]
    x = Modulate.apply(x, style[:, :, None, None])
    if layer.up:
        x = UpConv.apply(x, weight, None, 0)  # [N, O, 2H + 1, 2W + 1]
        x = Blur.apply(x, layer.blur, None, 1)  # [N, O, 2H, 2W]
    else:
        x = conv(x, weight, None, layer.fast_kernels)
    x = Epilogue2.apply(x, demodulation[:, :, None, None], noise, strength, bias)
    return x if layer.clamp is None else x.clamp(-layer.clamp, layer.clamp)
