"""A step of the optimiser as one piece: compiled by torch.compile, or recorded once on a CUDA card and replayed.

Both take a function (ws, maps) -> (losses [N], images) and are one themselves, for the steps that want its gradient. What is asked without
gradients, once in a descent, takes the plain function. Where either fails, the plain function does it all, and `failed` says why.
"""

import torch

WARM = 3  # steps before the recording: libraries choose their algorithms and take their memory then
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "could not create a primitive")  # PyTorch, oneDNN


def is_tensor(x):
    return isinstance(x, torch.Tensor)


def short(error):
    """An error on one line."""
    return " ".join(f"{type(error).__name__} {error}".split())[:200]


class Compiled:
    """torch.compile. It takes most of a minute, so it is for thousands of steps."""

    def __init__(self, plain, on_cuda):
        self.plain, self.tried, self.failed = plain, False, None
        self.compiled = torch.compile(plain, mode="reduce-overhead" if on_cuda else None)  # CUDA graphs: one launch for the whole step

    def __call__(self, ws, maps):
        if self.failed or not torch.is_grad_enabled():
            return self.plain(ws, maps)
        ws = ws.contiguous()  # one w for all layers and a w for each: one graph
        if not self.tried:
            self.tried, self.failed = True, self.why_not(ws, maps)
            return self(ws, maps)
        return self.compiled(ws, maps)

    def why_not(self, ws, maps):
        """Compile both directions, the backward one too before it is needed: None, or what the compiler says, on one line."""
        from torch._dynamo.exc import TorchDynamoException

        def alike(x):
            return x.detach().requires_grad_(x.requires_grad) if is_tensor(x) else x

        ws, maps = alike(ws), maps if isinstance(maps, str) else [alike(m) for m in maps]
        moving = [x for x in (ws, *maps) if is_tensor(x) and x.requires_grad]
        try:
            torch.autograd.grad(self.compiled(ws, maps)[0].sum(), moving, allow_unused=True)
        except TorchDynamoException as error:
            return short(error)
        return None


class Captured:
    """A CUDA graph: a step and its gradient are recorded once, in the time of a few steps, and replayed: one launch, not a thousand.

    A recording knows the memory that its tensors lay in, so ws and maps are copied there before a replay; what the function sees
    beside them (weights, targets) must stay as it is. An image's loss depends on its own row of ws and maps only: so the gradient of
    any weighted sum of the losses is the recorded one of the plain sum, row by row times the weight.

    Args:
        cuda: torch.cuda, or what stands in for it.
    """

    def __init__(self, plain, cuda=torch.cuda):
        self.plain, self.cuda, self.graph, self.failed = plain, cuda, None, None

    def __call__(self, ws, maps):
        if self.failed or not torch.is_grad_enabled():
            return self.plain(ws, maps)
        if self.graph is None:
            try:
                self.record(ws, maps)
            except RuntimeError as error:
                if any(sign in str(error) for sign in OUT_OF_MEMORY):  # whoever asked takes fewer images
                    raise
                self.failed = short(error)
                return self.plain(ws, maps)
        return Replayed.apply(self, ws, *(m for m in maps if is_tensor(m)))

    def record(self, ws, maps):
        """Take the memory for inputs and outputs, and record a step that fills the outputs."""
        own = [x.detach().contiguous().clone().requires_grad_(x.requires_grad) for x in (ws, *maps) if is_tensor(x)]
        self.inputs, self.moving = own, [x for x in own if x.requires_grad]
        given = maps if isinstance(maps, str) else own[1:]

        def step():
            losses, images = self.plain(own[0], given)
            return losses.detach(), images.detach(), torch.autograd.grad(losses.sum(), self.moving)

        with self.cuda.device(ws.device), torch.enable_grad():  # not the first card, where this one is another
            here, side = self.cuda.current_stream(), self.cuda.Stream()
            side.wait_stream(here)
            with self.cuda.stream(side):
                for _ in range(WARM):
                    step()
            here.wait_stream(side)
            graph = self.cuda.CUDAGraph()
            with self.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):  # other threads may copy pictures meanwhile
                self.losses, self.images, self.gradients = step()
        self.graph = graph

    def replay(self, inputs):
        with self.cuda.device(self.inputs[0].device), torch.no_grad():
            for mine, given in zip(self.inputs, inputs, strict=True):
                mine.copy_(given)
            self.graph.replay()


class Replayed(torch.autograd.Function):
    """A `Captured`'s replay, with its gradient."""

    @staticmethod
    def forward(ctx, captured, *inputs):
        captured.replay(inputs)
        gradients = iter([g.clone() for g in captured.gradients])  # the next replay writes over them
        ctx.gradients = [next(gradients) if x.requires_grad else None for x in captured.inputs]
        images = captured.images.clone()
        ctx.mark_non_differentiable(images)
        return captured.losses.clone(), images

    @staticmethod
    def backward(ctx, weights, _):
        return None, *(None if g is None else g * weights.view(-1, *[1] * (g.ndim - 1)) for g in ctx.gradients)
