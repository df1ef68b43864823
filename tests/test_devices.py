"""What only other devices show, held by stand-ins: PyTorch's meta device, operations counted, capabilities made up."""

import contextlib
import ctypes
import dataclasses
import platform
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import facial_exchange
import stylegan_layers
from editor import boundaries, checkpoints, cli, masks, projection, render, session, settings
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


class WithoutFloat64(TorchFunctionMode):
    """The meta device as Apple's MPS: no float64 on it, and no eigenvectors; what is fetched from it is drawn at random."""

    def __torch_function__(self, function, kinds, args=(), kwargs=None):
        if function is torch.Tensor.cpu and args[0].is_meta:
            return torch.randn(args[0].shape, generator=torch.Generator().manual_seed(0)).to(args[0].dtype)
        assert not (function is torch.linalg.eigh and args[0].is_meta)
        found = function(*args, **(kwargs or {}))
        assert not (isinstance(found, torch.Tensor) and found.is_meta and found.dtype == torch.float64), f"float64 by {function}"
        return found


def test_edits_and_the_prior_compute_in_float64_on_the_cpu(monkeypatch):
    random = torch.Generator().manual_seed(1)
    normals = [torch.randn(1, 512, generator=random, dtype=torch.float64) for _ in range(2)]
    edits = [(boundaries.Boundary(n / boundaries.length(n)), d) for n, d in zip(normals, (1.0, -2.0), strict=True)]
    G, ws = generator("stylegan1").to("meta"), torch.zeros(1, 6, 512, device="meta")
    by = facial_exchange.Expression([edits[0][0].normal], [edits[1][0].normal], [0, 1])
    with WithoutFloat64():
        for absolute in (False, True):
            found = boundaries.moved(ws, edits, absolute)
            assert found.dtype == torch.float64 and found.device.type == "cpu"
        assert boundaries.signed_distance(found, edits[0][0]).item() == pytest.approx(1)
        prior = projection.Prior(G, torch.device("meta"), 600)
        assert prior(ws).is_meta and prior.whiten.dtype == prior.mean.dtype == torch.float32
        assert by(ws).is_meta and by(ws).dtype == torch.float32


def test_a_mask_of_several_shapes_lies_where_its_picture_lies(monkeypatch):
    monkeypatch.setattr(masks.images, "to_pil", lambda image: Image.new("RGB", (16, 16)))
    marks = np.stack(np.meshgrid(np.linspace(2, 12, 17), np.linspace(2, 12, 4)), 2).reshape(68, 2)
    monkeypatch.setattr(masks.landmarks, "landmarks_of_crop", lambda picture, turned: marks)
    pictures = torch.zeros(2, 3, 16, 16, device="meta")
    for text, count in [("part:face+ellipse:0.5,0.5,0.2,0.2", 2), ("box:0,0,0.5,1", 1)]:
        found = masks.read(text, 16, pictures, invert=True, blur=0.1)
        assert found.is_meta and found.shape == (count, 1, 16, 16)
    assert masks.read("box:0,0,0.5,1", 16).device.type == "cpu"


def cards(monkeypatch, native):
    """A machine with CUDA cards that multiply bfloat16, or emulate it as a T4 does."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    asked = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: asked.append(device) or contextlib.nullcontext())
    return asked


@pytest.fixture
def opened(small_G, monkeypatch):
    """opened(device, precision) -> a Session of the small generator, which lies on the CPU whatever the device is called."""
    monkeypatch.setattr(checkpoints, "load_generator", lambda name, device: small_G)
    before = session.allow_tf32(False)
    yield lambda device, precision, **more: session.open(
        SimpleNamespace(**{"device": device, "precision": precision, "weight_file": None, "seed": 0, "perceptual": "none"} | more)
    )
    session.allow_tf32(before)


@pytest.mark.parametrize(
    "native, precision, steps, pictures, tf32, said",
    [
        (True, "auto", "bfloat16", "float32", True, "bfloat16 and tf32 (pictures float32)"),
        (False, "auto", "float32", "float32", True, "tf32 (pictures float32)"),
        (True, "fp32", "float32", "float32", False, "float32"),
        (True, "tf32", "float32", "float32", True, "tf32 (pictures float32)"),
        (True, "bf16", "bfloat16", "bfloat16", True, "bfloat16 and tf32 (pictures bfloat16)"),
        (False, "bf16", "bfloat16", "bfloat16", True, "bfloat16 and tf32 (pictures bfloat16)"),
    ],
)
def test_number_formats_on_cuda_cards(opened, monkeypatch, native, precision, steps, pictures, tf32, said):
    asked = cards(monkeypatch, native)
    found = opened("cuda:1", precision)
    assert (found.step_dtype, found.dtype, found.tf32) == (getattr(torch, steps), getattr(torch, pictures), tf32)
    assert found.formats == said and all(device == torch.device("cuda:1") for device in asked)
    assert bool(found.remarks) == (not native and precision == "bf16")  # asked for, and slow


def test_a_cpus_formats(opened, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    found = opened("cpu", "auto")
    assert (found.step_dtype, found.dtype, found.tf32, found.formats) == (
        torch.bfloat16, torch.float32, False, "bfloat16 (pictures float32)",
    )  # fmt: skip
    said = found.record("x.py", {})
    assert (said["precision"], said["pictures"]) == ("bfloat16", "float32")
    assert opened("cpu", "tf32").formats == "float32"  # no TF32 there


def test_tf32_is_allowed_in_steps_and_nowhere_else(opened, monkeypatch):
    """PyTorch allows it in convolutions by default; what is rendered between two parts must not take it."""
    now = lambda: (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)  # noqa: E731
    torch.backends.cudnn.allow_tf32 = True
    seen, project = [], projection.project
    monkeypatch.setattr(projection, "project", lambda *words: seen.append(now()) or project(*words))
    monkeypatch.setattr(session, "ONE_THREAD_UP_TO", 8)
    for allowed in (True, False):
        found = opened("cpu", "fp32")
        assert now() == (False, False)
        found.tf32, between = allowed, []
        config = settings.Config(iteration=1, lambda_percep=0)
        for _ in found.embed(projection.Goal(torch.zeros(2, 3, 16, 16)), config, size=1):
            between.append(now())
        assert between == [(False, False)] * 2 and seen[-2:] == [(allowed, allowed)] * 2
    with pytest.raises(RuntimeError), session.tf32_allowed(True):
        raise RuntimeError
    assert now() == (False, False)


def test_compiling_must_win_its_time_back(opened, monkeypatch):
    """Measured at 1024 on a CPU: 71 seconds of compiling, 0.08 seconds won a step."""
    cuda, cpu, half = torch.device("cuda"), torch.device("cpu"), torch.bfloat16
    monkeypatch.setattr(session.shutil, "which", lambda name: "/usr/bin/" + name)
    assert not session.compiles("auto", cpu, half, 1024, 880) and session.compiles("auto", cpu, half, 1024, 900)
    assert session.compiles("auto", cpu, half, 1024, 90, images=10) and not session.compiles("auto", cpu, half, 512, 900, images=3)
    assert not session.compiles("auto", cuda, half, 1024, 10**6) and session.compiles("on", cuda, half, 1024, 1)
    assert not session.compiles("auto", torch.device("mps"), torch.float32, 1024, 10**6)
    found = opened("cpu", "fp32", compile="auto")
    found.step_dtype, found.images = half, 10**9
    assert not found.compiles(settings.Config())  # too small to win anything


@pytest.fixture
def compiler(monkeypatch):
    """torch.compile made up: what it is called with is noted, and `fails` with what the compiler says."""
    seen = SimpleNamespace(calls=[], fails=None)

    def compile(function, **options):
        def compiled(ws, maps):
            if seen.fails:
                raise torch._dynamo.exc.BackendCompilerFailed(seen.fails, RuntimeError("Python.h: no such file\nmore"), None)
            seen.calls.append(torch.is_grad_enabled())
            return function(ws, maps)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    return seen


def test_auto_takes_pictures_of_half_the_side_rather_than_compiling(monkeypatch):
    monkeypatch.setattr(session, "compiles", lambda *words: True)
    one = session.Session(SimpleNamespace(resolution=1024), torch.device("cpu"), torch.float32)
    assert one.compiles(settings.Config()) and not one.compiles(settings.Config(coarse=0.7))
    one.compile = "on"
    assert one.compiles(settings.Config(coarse=0.7))
    other = session.Session(SimpleNamespace(resolution=1024), torch.device("cuda"), torch.float32)
    assert other.compiles(settings.Config(coarse=0.7))


@pytest.mark.parametrize("stages", [{"iteration": 4}, {"iteration": 0, "noise_iteration": 4}, {"w_iteration": 2, "iteration": 2}])
def test_only_steps_are_compiled(small_G, compiler, stages):
    """The last look at the losses wants no gradient: another graph, and another half minute of compiling, for one call."""
    config = settings.Config(lambda_percep=0, compile=True, **stages)
    target = torch.zeros(1, 3, 16, 16)
    found = projection.project(small_G, None, target, config)
    assert all(compiler.calls) and len(compiler.calls) >= 4 and found.not_compiled is None
    wanted = projection.project(small_G, None, target, dataclasses.replace(config, compile=False))
    assert torch.equal(found.ws, wanted.ws) and torch.equal(found.loss, wanted.loss)


def test_a_failure_to_compile_is_said_and_the_steps_run(small_G, compiler, opened):
    compiler.fails, config = "inductor", settings.Config(iteration=3, lambda_percep=0)
    found = opened("cpu", "fp32", compile="on")
    parts = list(found.embed(projection.Goal(torch.zeros(2, 3, 16, 16)), config, size=1))
    assert len(found.remarks) == 1 and "could not be compiled" in found.remarks[0] and "Python.h" in found.remarks[0]
    assert [part.steps for *_, part in parts] == [3, 3] and found.compile == "off" and not compiler.calls
    config.compile = False
    assert torch.equal(parts[0][2].ws, projection.project(small_G, None, torch.zeros(1, 3, 16, 16), config).ws)


@pytest.mark.parametrize("answer, side, said", [(1, 1024, False), (0, 1024, True), (0, 16, False)])
def test_buffers_that_are_not_kept_are_said_where_they_count(opened, monkeypatch, answer, side, said):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda option, value: answer))
    monkeypatch.setattr(cli, "BUFFERS_KEPT", None)
    monkeypatch.setattr(session, "BUFFERS_COUNT_FROM", 16 * 512 // side)
    cli.keep_buffers()
    assert cli.BUFFERS_KEPT is bool(answer) and bool(opened("cpu", "fp32").remarks) == said


@pytest.mark.parametrize("choice, pictures", [("auto", torch.float32), ("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_one_rule_for_saved_pictures(encode, tiny, tmp_path, monkeypatch, choice, pictures):
    """Steps in bfloat16, as `auto` takes them on a CPU with AMX, leave a picture that any command renders again to the bit."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    seen, project, one = [], projection.project, render.one
    monkeypatch.setattr(projection, "project", lambda G, d, goal, config, *a: seen.append(config.dtype) or project(G, d, goal, config, *a))
    monkeypatch.setattr(render, "one", lambda G, face, dtype=None: seen.append(dtype) or one(G, face, dtype))
    words = ["--src_im", tiny.folder / "c.png", "--weight_file", tiny.weights, "--precision", choice, "--quiet"]
    assert encode(*words, "--src_dir", tmp_path) == 0
    assert seen == [torch.float32 if choice == "fp32" else torch.bfloat16, pictures]
