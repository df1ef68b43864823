"""Convolutions with fixed weights: only the image has a gradient, and none of their inputs is kept for it.

PyTorch keeps the input of every convolution for the gradient of its weights; with frozen weights that is memory for
nothing. And on a CPU its 3x3 convolutions of many channels do two to three times the multiplications that Winograd's
way needs. What is computed is the same to float32 rounding; Winograd's sums (rounding 30 times larger, 4e-5 of the
output's spread) are taken only where a gradient is asked for: pictures come out of PyTorch's own convolution.

On a CPU an image of the bundled generator is computed alike to the last bit whatever else is in its batch. PyTorch's
libraries do not grant that: they choose their way, and with it the order of sums, by the number of images, wherever there
is little to do for each; and hundreds of steps of Adam make tenths of a decibel of one bit. So `alone` and `rows` leave
them no choice.
"""

import torch
import torch.nn.functional as F
from torch import nn

WINOGRAD_FROM = 128  # channels; below, its transforms cost more than it saves (measured, benchmarks/README.md)
SMALLEST = 16  # side; below, PyTorch's own is as fast
ALONE_UP_TO = 8  # side; above, PyTorch's 3x3 convolutions are alike in any batch where channels are multiples of 16 (found by trying)
ROWS = 8  # matrices of so many rows, or a multiple, are multiplied alike

# F(4x4, 3x3) of Lavin & Gray 2016: d -> B^T d B, kernel -> G g G^T, product -> A^T m A, each as one matrix for both sides
_B = torch.tensor(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
).double()
_G = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]).double() / 24
_A = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]).double()
INPUT, KERNEL, OUTPUT = (torch.kron(m, m) for m in (_B, _G, _A))  # [36, 36], [36, 9], [16, 36]
INPUT, OUTPUT = INPUT.float(), OUTPUT.float()
INPUT_BACK, OUTPUT_BACK = INPUT.t().contiguous(), OUTPUT.t().contiguous()


def alone(f, *tensors, always=False):
    """f(*tensors), image by image on a CPU where maps are small, or `always`."""
    x = tensors[0]
    if len(x) == 1 or x.device.type != "cpu" or torch.compiler.is_compiling() or not (always or max(x.shape[2:]) <= ALONE_UP_TO):
        return f(*tensors)
    return torch.cat([f(*parts) for parts in zip(*(t.split(1) for t in tensors), strict=True)])


def rows(x, weight, bias=None):
    """x [N, I] -> [N, O], as `F.linear`."""
    if x.device.type != "cpu":
        return F.linear(x, weight, bias)
    return F.linear(F.pad(x, (0, 0, 0, -len(x) % ROWS)), weight, bias)[: len(x)]


def transformed(weight, side=SMALLEST):
    """3x3 kernels [O, I, 3, 3] -> [36, O, I] for `conv` on maps of `side` pixels, or None where Winograd does not pay."""
    outputs, inputs = weight.shape[:2]
    if side < SMALLEST or weight.device.type != "cpu" or weight.dtype != torch.float32 or min(outputs, inputs) < WINOGRAD_FROM:
        return None
    flat = weight.detach().double().reshape(outputs * inputs, 9)
    return (KERNEL @ flat.t()).float().view(36, outputs, inputs)


def suits(x, kernels):
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
    """3x3 or 1x1 convolution that keeps the side; `kernels`: what `transformed` made of the weight, or None."""

    @staticmethod
    def forward(ctx, x, weight, bias, kernels):
        padding = weight.shape[2] // 2
        if kernels is not None:
            ctx.save_for_backward(kernels)
            y = winograd(x, kernels)
            return y if bias is None else y.add_(bias.view(-1, 1, 1))
        ctx.save_for_backward(weight)
        return alone(lambda x: F.conv2d(x, weight, bias, padding=padding), x)

    @staticmethod
    def backward(ctx, g):
        (weight,) = ctx.saved_tensors
        if weight.ndim == 3:
            return winograd_back(g, weight), None, None, None
        return alone(lambda g: F.conv_transpose2d(g, weight, padding=weight.shape[2] // 2), g), None, None, None


def conv(x, weight, bias=None, kernels=None):
    """x [N, I, H, W] with fixed weight [O, I, k, k] (k 1 or 3) and bias [O] -> [N, O, H, W]."""
    return Conv.apply(x, weight, bias, kernels if torch.is_grad_enabled() and x.requires_grad and suits(x, kernels) else None)


class Conv3(nn.Conv2d):
    """A 3x3 convolution of padding 1 that takes `conv` while its weights are frozen."""

    kernels = None

    def __init__(self, fan_in, fan_out):
        super().__init__(fan_in, fan_out, 3, padding=1)

    def forward(self, x):
        if self.weight.requires_grad or torch.compiler.is_compiling():
            return super().forward(x)
        if self.kernels is None and x.requires_grad:
            self.kernels = transformed(self.weight)
        return conv(x, self.weight, self.bias, self.kernels)

    def _apply(self, fn, recurse=True):  # moved, or another number format
        self.kernels = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args):
        self.kernels = None
        super()._load_from_state_dict(*args)


class UpConv(torch.autograd.Function):
    """Transposed convolution of stride 2, weight [I, O, k, k].

    4x4 kernels with padding 1 may be given as `phases` [4 O, I, 2, 2] too (`phases_of`): four 2x2 convolutions, one for each
    place in a 2x2 square of the output.
    """

    @staticmethod
    def forward(ctx, x, weight, phases, padding):
        ctx.save_for_backward(weight)
        ctx.padding = padding
        if phases is None:
            return alone(lambda x: F.conv_transpose2d(x, weight, stride=2, padding=padding), x)
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


def phases_of(weight):
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
