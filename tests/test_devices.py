"""What only other devices show, held by stand-ins: PyTorch's meta device, operations counted, capabilities made up."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import stylegan_layers
from editor import projection, settings
from perceptual_model import LPIPS


class Watch(TorchDispatchMode):
    """Notes each operation: `copied`, those that bring a tensor of the CPU to another device; `waits`, those that fetch a number."""

    def __init__(self):
        super().__init__()
        self.copied, self.waits = [], 0

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        made = [x for x in torch.utils._pytree.tree_leaves(found) if isinstance(x, torch.Tensor)]
        if any(x.device.type == "cpu" for x in tensors) and any(x.device.type != "cpu" for x in made):
            self.copied.append(str(function))
        self.waits += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return found


def generator(kind, side=16):
    torch.manual_seed(0)
    G = stylegan_layers.Generator(stylegan_layers.Config(kind, side, channel_base=256, mapping_layers=2))
    for layer in G.synthesis.layers():
        layer.noise_strength.data.fill_(0.1)
    return G


@pytest.mark.parametrize("kind", stylegan_layers.SYNTHESIS)
@pytest.mark.parametrize("frozen, dtype", [(True, torch.float32), (True, torch.bfloat16), (False, torch.float32)])
def test_a_step_copies_no_constant_to_its_device(kind, frozen, dtype):
    """The filters' taps and LPIPS's weights lie there already: a copy waits for the device, and keeps CUDA graphs from being made."""
    G, distance = generator(kind).to("meta"), LPIPS(size=32).requires_grad_(False).to("meta")
    G = G.freeze() if frozen else G
    images = torch.zeros(2, 3, 16, 16, device="meta")
    losses_of = projection.objective(G, distance, projection.Goal(images), settings.Config(dtype=dtype))
    ws = torch.zeros(2, G.num_ws, 512, device="meta", requires_grad=True)
    with Watch() as seen:
        losses, _ = losses_of(ws, "const")
        torch.autograd.grad(losses.sum(), ws)
    assert losses.device.type == "meta" and seen.copied == []


@pytest.mark.parametrize("kind", stylegan_layers.SYNTHESIS)
def test_a_discriminator_copies_no_constant_to_its_device(kind):
    D = stylegan_layers.Discriminator(stylegan_layers.Config(kind, 16, channel_base=256)).to("meta")
    with Watch() as seen:
        assert D(torch.zeros(2, 3, 16, 16, device="meta")).shape == (2, 1)
    assert seen.copied == []


def test_constants_are_in_no_checkpoint():
    names = [*generator("stylegan1").state_dict(), *LPIPS().state_dict()]
    assert not [name for name in names if "blur" in name or "linear" in name]


def test_lpips_is_finite_where_a_picture_has_no_features():
    """Dark biases leave no feature above 0: the length of such features is 0, whose square root has no gradient."""
    distance = LPIPS(size=16).requires_grad_(False)
    distance.conv1_1.bias.fill_(-100)
    for name in distance.needed[1:]:
        getattr(distance, name).bias.fill_(-1e-3)
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    loss = distance(x, torch.rand(1, 3, 16, 16))
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert loss.isfinite().all() and gradient.isfinite().all()


def test_what_is_computed_twice_saves_no_random_state(monkeypatch):
    """The state of a CUDA generator is fetched to the CPU: a wait at each layer, and nothing in a layer draws."""
    seen = []
    monkeypatch.setattr(stylegan_layers, "checkpoint", lambda layer, *inputs, **options: seen.append(options) or layer(*inputs))
    G = generator("stylegan1").freeze()
    G.synthesis(torch.zeros(1, G.num_ws, 512, requires_grad=True), recompute_from=8)
    assert seen and all(options["preserve_rng_state"] is False for options in seen)


@pytest.mark.parametrize("steps", [{"iteration": 39}, {"iteration": 0, "noise_iteration": 39}])
def test_the_optimiser_waits_for_its_device_only_where_it_looks(steps):
    """Looks are at steps 0, 10, 20, 30 and the last; 39 steps must wait as often as 32."""
    G, target = generator("stylegan1").freeze(), torch.zeros(1, 3, 16, 16)

    def waits(steps):
        with Watch() as seen:
            projection.project(G, None, target, settings.Config(lambda_percep=0, **steps))
        return seen.waits

    fewer = {name: min(count, 32) for name, count in steps.items()}
    assert 0 < waits(fewer) == waits(steps)
