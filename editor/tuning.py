"""The generator tuned around a face: the latent stays where edits work, and what it misses goes into the synthesis weights.

Pivotal tuning (Roich et al. 2021, "Pivotal tuning for latent-based editing of real images"). A face's tuned weights are small:
{name of a parameter of `G.synthesis`: a float16 tensor}. A convolution's [O, I, 3, 3] may be changed by one factor a kernel,
[O, I, 1, 1], weight * (1 + factor) (HyperStyle, Alaluf et al. 2022), whatever has the parameter's own shape is added to it. They
are float16 from the moment they are found, so that what is rendered then and what is rendered from the file is one picture.

StyleGAN3's input may be turned and shifted for a face, too (`motion`): that is kept beside its weights, as TRANSFORM, float32 [3, 3].
"""

import functools
import json
import re
from dataclasses import replace

import torch

from editor import checkpoints, classes, files, motion, projection
from editor.fast_conv import branch, own_part
from stylegan_layers import Freezable

SUFFIX = ".tuned.safetensors"
FORMAT = "stylegan-latent-editor tuned weights 1"
CONVOLUTION = re.compile(r"(b\d+\.conv[01]|L\d+_\d+_\d+)\.weight")  # StyleGAN3's ToRGB with them
TRANSFORM = "input.transform"  # stands as it is, and is added to nothing
LONGEST_HEADER = 1 << 20  # bytes of a file's names, shapes and metadata: kilobytes, in truth
PSI = 0.7  # truncation of the other faces
STYLE = ".affine.bias"  # what is added to a layer's style (`styles`); tuning leaves it alone
OTHERS = re.compile(r"b\d+\.(const|conv[01]\.bias|torgb\.(weight|bias))|torgb\.(weight|bias)|L\d+_\d+_\d+\.bias")


# ---------------------------------------------------------------------------------------------------------------------
# A generator that wears tuned weights


def worn(G, tuned):
    """The generator with a face's tuned weights (None: G itself, so its pictures to the bit); what they leave alone is shared with G."""
    if not tuned:
        return G
    found = with_weights(G, weights(G, tuned))
    for module in found.modules():
        if isinstance(module, Freezable) and module.frozen is None:  # what is shared with G stays as it is: threads render with it
            module.freeze()
    return found


def weights(G, tuned):
    """Tuned weights as the network has them, {name in `G.synthesis`: tensor}."""
    return {name: delta if name == TRANSFORM else changed(parameter(G, name), delta) for name, delta in tuned.items()}


def with_weights(G, weights):
    """A generator that shares its parts with G but for these weights, {name: tensor}; the layers that hold them are not frozen."""
    found, made = branch(G), {}
    found.synthesis = branch(G.synthesis)
    for name, value in weights.items():
        path, _, last = name.rpartition(".")
        module = own_part(found.synthesis, path, made)
        module._parameters.pop(last, None)
        setattr(module, last, value)
        if isinstance(module, Freezable):
            module.frozen = module.kernels = None
    return found


def set_weights(net, weights):
    """Put other weights into what `with_weights` made."""
    for name, value in weights.items():
        path, _, last = name.rpartition(".")
        setattr(net.synthesis.get_submodule(path), last, value)


def changed(weight, delta):
    """A parameter with its delta, float32."""
    delta = delta.to(weight)
    return weight * (1 + delta) if is_factor(weight, delta) else weight + delta


def is_factor(weight, delta):
    """Whether a delta is one factor a kernel, [O, I, 1, 1] of [O, I, 3, 3]."""
    return delta.shape != weight.shape


def parameter(G, name):
    """A parameter of the synthesis network by its name."""
    return G.synthesis.get_parameter(name)


# ---------------------------------------------------------------------------------------------------------------------
# Found


class Others:
    """Locality regularisation: faces near the pivot, drawn at random, must come out as they were (Roich et al. 2021, section 3.2)."""

    def __init__(self, G, distance, config, tuning):
        self.G, self.distance, self.config, self.tuning = G, distance, config, tuning
        self.generator = torch.Generator().manual_seed(config.seed)
        self.length = tuning.reach * usual_distance(G)

    def __call__(self, net, ws):
        """[1]: how far a face near ws [1, L, 512] is from what it was, as `net` draws it."""
        with torch.no_grad():
            z = torch.randn(1, self.G.config.z_dim, generator=self.generator).to(ws.device)
            away = self.G.truncate(classes.latents(self.G, z, evenly=True), PSI) - ws
            near = ws + away * (self.length / away.norm(dim=2).mean())
        with torch.no_grad():
            before = projection.Goal(self.G.synthesis(near, dtype=self.config.dtype or torch.float32))
        losses, _ = projection.objective(net, self.distance, before, self.config)(near, "const")
        return losses


@functools.lru_cache(maxsize=2)
@torch.no_grad()
def usual_distance(G):
    """How far faces lie from the mean latent: the mean over 256 drawn ones of |w - w_avg|."""
    z = torch.randn(256, G.config.z_dim, generator=torch.Generator().manual_seed(0)).to(G.w_avg.device)
    return max((classes.latents(G, z, evenly=True) - G.w_avg).norm(dim=1).mean().item(), 1e-8)


def tune(G, distance, goal, ws, config, tuning, maps="const", callback=None, show=None):
    """Tune the synthesis weights so that latents render their images: one set of weights for all of them.

    Args:
        G: a frozen generator. distance: as `projection.project` takes it.
        goal: a `projection.Goal` of K images. ws: the pivots [K, L, 512], which stay as they are.
        config: a `projection` Config: weights of the losses, number format, low memory.
        tuning: a `settings.Tuning`.
        maps: the noise, as `G.synthesis` takes it.
        callback, show: as of `projection.project`.

    Returns:
        projection.Projection: `tuned` holds the weights, once for each image; loss [1]. Ctrl-C ends it early with the best so far.
    """
    variables = {name: value[None] for name, value in zeros(G, tuning.form, tuning.from_side).items()}
    net = with_weights(G, {name: parameter(G, name).detach() for name in variables})
    config = replace(config, early_stop=0.0, compile=False, lambda_mse=tuning.pixels * config.lambda_mse)
    others = Others(G, distance, config, tuning) if tuning.locality else None
    parts = [goal.part(i, min(i + tuning.together, len(ws))) for i in range(0, len(ws), tuning.together)]
    looks = [projection.objective(net, distance, part, config) for part in parts]
    pivots, step, near = ws.split(tuning.together), 0, [None] * len(parts)
    noise = [maps if isinstance(maps, str) else [m[i : i + tuning.together] for m in maps] for i in range(0, len(ws), tuning.together)]
    with torch.no_grad():  # what each part's loss was when it was last looked at
        seen = [looks[k](pivots[k], noise[k])[0].mean() for k in range(len(parts))] if len(parts) > 1 else [None]

    def wear():
        set_weights(net, {name: changed(parameter(G, name), value[0]) for name, value in variables.items()})

    def evaluate():
        nonlocal step
        wear()
        k = step % len(parts)
        losses, images = looks[k](pivots[k], noise[k])
        near[k] = images.detach() if tuning.until else None
        step += 1
        loss = losses.mean()
        seen[k] = loss.detach()
        if len(parts) > 1:  # the best step is that of all images, not of an easy part; the gradient is this part's
            loss = loss + (torch.stack(seen).mean() - loss).detach()
        return loss[None], images

    def look_at_others(step):
        if others is None or step % tuning.locality_every:
            return None
        wear()  # what was derived from the variables before is gone with its gradient
        pivot = pivots[step % len(parts)]
        return tuning.locality * others(net, pivot[step // len(parts) % len(pivot)][None])

    def enough(_):
        return all(seen is not None and is_near(seen, part, tuning.until) for seen, part in zip(near, parts, strict=True))

    found = projection.Projection(ws=ws, loss=None)
    moving = [projection.Variable(value, tuning.lr, torch.ones((), device=ws.device)) for value in variables.values()]
    heard = callback, show, enough if tuning.until else None, look_at_others
    found.loss = projection.descend(moving, [(0, evaluate)], tuning.steps, config, found, *heard)
    weights = {name: value[0].detach().half() for name, value in variables.items()}
    found.tuned = [weights if any(value.any() for value in weights.values()) else None] * len(ws)  # None: no step was better than none
    return found


def is_near(images, goal, until):
    """Whether each image [K, 3, R, R] of a `projection.Goal` has a PSNR of `until` dB, where its mask is 1."""
    weight = torch.ones_like(goal.image) if goal.mask is None else goal.mask.expand_as(goal.image)
    error = ((images.clamp(-1, 1) - goal.image).square() * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
    return bool((error <= 4 / 10 ** (until / 10)).all())  # the peak is 2


def follow(G, distance, goal, found, config, tuning, together=False, callback=None, show=None):
    """What comes after the latents: the weights around each (around all, `together`), and under them the noise maps.

    Args:
        found: a `projection.Projection` of the latents; gains `tuned` and `noise`, and its losses are those of the last stage.
        callback: called with (steps since the latents, of all images, losses). show: with (number of the image, step, image).
    """
    before, count, noise, done = found.steps, len(found.ws), [], 0
    found.tuned, found.loss = [None] * count, found.loss.clone()
    for images in [range(count)] if together else [[k] for k in range(count)]:
        first, last, found.steps = images[0], images[-1] + 1, before
        heard = _heard(callback, show, done, len(images), first, before)
        one = tune(G, distance, goal.part(first, last), found.ws[first:last], config, tuning, _maps(found, first, last), *heard)
        _note(found, one, first, last)
        done, steps = done + len(images) * tuning.steps, found.steps
        for k in images if config.noise_iteration else ():
            if not found.interrupted:
                heard = _heard(callback, show, done, 1, k, before + tuning.steps)
                start = {"init": found.ws[k : k + 1], "noise": _maps(found, k, k + 1), "space": "w+", "layers": None}
                maps_alone = replace(config, iteration=0, w_iteration=0, lambda_prior=0, lambda_cosine=0, joint=False, **start)
                one = projection.project(worn(G, found.tuned[k]), distance, goal.part(k, k + 1), maps_alone, *heard)
                found.steps = steps  # an image
                _note(found, one, k, k + 1)
                noise.append(one.noise)
            done += config.noise_iteration
        if found.interrupted:
            break
    if noise:  # of those that Ctrl-C left out: the maps they were found under
        noise += [_list(G, _maps(found, k, k + 1)) for k in range(len(noise), count)]
        found.noise = [torch.cat(maps) for maps in zip(*noise, strict=True)]


def _heard(callback, show, done, many, image, before):
    """callback and show of `follow` as `projection.project` calls its own."""
    return (
        (lambda step, losses: callback(done + many * (step + 1), losses)) if callback else None,
        (lambda step, seen: show(image, before + step, seen)) if show else None,
    )


def _maps(found, first, last):
    """The noise that images first .. last - 1 are rendered with, as `G.synthesis` takes it."""
    return "const" if found.noise is None else [m[first:last] for m in found.noise]


def _list(G, maps):
    return [layer.noise_const[None, None] for layer in G.synthesis.layers()] if maps == "const" else maps


def _note(found, one, first, last):
    """Add to a Projection what a later stage found for images first .. last - 1."""
    found.tuned[first:last] = one.tuned or found.tuned[first:last]
    found.loss[first:last] = one.loss
    found.history += projection.alone(one.history, first, last, len(found.ws), found.steps)
    found.noise_loss = one.noise_loss if one.noise_loss is not None else found.noise_loss
    found.steps += one.steps
    found.stopped, found.interrupted = one.stopped, one.interrupted
    found.diverged[first:last] = [old or new for old, new in zip(found.diverged[first:last], one.diverged * (last - first), strict=False)]


def zeros(G, form, from_side=4):
    """Deltas of a form that change nothing, float32: of each convolution, and of the biases, the constant input and ToRGB.

    Only the layers of `from_side` pixels a side and more; a network that has none such has its last.
    """
    found = {}
    for name, weight in G.synthesis.named_parameters():
        if side_of(G, name) < min(from_side, G.resolution):
            continue
        if CONVOLUTION.fullmatch(name):
            found[name] = torch.zeros_like(weight[:, :, :1, :1] if form == "kernel" else weight)
        elif OTHERS.fullmatch(name):
            found[name] = torch.zeros_like(weight)
    return found


def side_of(G, name):
    """The side in pixels of what a parameter's layer makes; of StyleGAN3's, which have more samples, as many pixels as hold its detail."""
    if block := re.match(r"b(\d+)\.", name):
        return int(block[1])
    layer = re.match(r"L(\d+)_", name)
    return round(2 * G.config.places[int(layer[1])].cutoff) if layer else G.resolution


# ---------------------------------------------------------------------------------------------------------------------
# Moved and mixed


def layer_of(G, name):
    """Which layer of W+ a parameter goes with: the one whose w its layer of the network takes.

    StyleGAN2 has one styled layer at 4x4, and in each block a ToRGB, which shares its w with the next block's first layer;
    StyleGAN1 has two at 4x4 and one ToRGB, after the last layer; StyleGAN3's input takes the first w.
    """
    if G.kind == "stylegan3":
        layer = re.match(r"L(\d+)_", name)
        return int(layer[1]) + 1 if layer else 0
    block = re.match(r"b(\d+)\.(const|conv0|conv1|torgb)", name)
    if block is None:
        return G.num_ws - 1
    first = 2 * (int(block[1]).bit_length() - 3)  # 0 at 4x4, 2 at 8x8, ...
    place = {"const": 0, "conv0": 0, "conv1": 1, "torgb": 1}[block[2]]
    if G.kind == "stylegan1":
        return first + place
    return first + {"const": 0, "conv0": -1, "conv1": 0, "torgb": 1}[block[2]]


def between(a, b, amounts, G):
    """a + amount * (b - a) of two faces' tuned weights (None: the generator's own), parameter by parameter.

    Args:
        amounts: what gives the amount for a parameter's name; at 0 and 1 the delta is a's and b's to the bit.

    Returns:
        Tuned weights, or None where nothing is left.
    """
    found = {}
    for name in sorted({*(a or {}), *(b or {})}):
        one, other, amount = (a or {}).get(name), (b or {}).get(name), amounts(name)
        if amount in (0, 1):
            value = other if amount else one
        elif name == TRANSFORM:
            value = motion.between(*(G.synthesis.input.transform if each is None else each for each in (one, other)), amount)
        else:
            one, other = _alike(one, other, parameter(G, name))
            value = torch.lerp(one, other, amount).half()
        if value is not None:
            found[name] = value
    return found or None


def scaled(tuned, strength, G):
    """A face's tuned weights at a strength of 0 (None: the generator's own) to 1 (as they are); how it lies stays."""
    return between(None, tuned, lambda name: 1 if name == TRANSFORM and strength else strength, G)


def _alike(one, other, weight):
    """Two deltas of a parameter as float32 of one shape; None is 0, and a factor beside a difference becomes a difference."""
    if one is not None and other is not None and one.shape != other.shape:
        one, other = ((weight * x.to(weight) if is_factor(weight, x) else x) for x in (one, other))
    like = other if one is None else one
    return tuple(torch.zeros_like(like, dtype=torch.float32) if x is None else x.float() for x in (one, other))


# ---------------------------------------------------------------------------------------------------------------------
# Files


def path_of(latent):
    """The file of a latent's tuned weights: NAME.npy -> NAME.tuned.safetensors."""
    return latent.with_suffix(SUFFIX)


def write(path, tuned, generator_hash):
    """Write tuned weights as safetensors, whose metadata name the generator that they belong to; returns the file's sha256."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with files.atomic(path) as temporary:
        tensors = {name: value.detach().cpu().contiguous() for name, value in tuned.items()}
        try:
            save_file(tensors, temporary, {"format": FORMAT, "generator_hash": generator_hash or ""})
        except SafetensorError as error:  # a full disk
            raise OSError(str(error)) from None
        checkpoints.sort_metadata(temporary)  # the same weights are the same file
        return files.file_hash(temporary)


def read(path, G, force=False):
    """Tuned weights as `write` wrote them, on G's device.

    Args:
        force: accept those of another generator of the same shape.

    Raises:
        ValueError, OSError: unreadable, of another kind, not of this network, or with NaN or infinity.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    advice = "encode again, or use --tuned_strength 0"
    files.require_regular(path, advice)
    known = G.synthesis.named_parameters()
    weights = {name: weight for name, weight in known if CONVOLUTION.fullmatch(name) or OTHERS.fullmatch(name) or name.endswith(STYLE)}
    if G.kind == "stylegan3":
        weights[TRANSFORM] = G.synthesis.input.transform
    if path.stat().st_size > 2 * sum(weight.numel() for weight in weights.values()) + LONGEST_HEADER:
        raise ValueError(f"{path}: larger than all weights of this generator; {advice}")
    content = path.read_bytes()  # not by its name, which safetensors reads as UTF-8 only
    try:
        found = load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:  # KeyError: a number format that PyTorch lacks
        raise ValueError(f"{path}: not readable ({' '.join(str(error).split())[:200]}); {advice}") from None
    said = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
    if said.get("format") != FORMAT:
        raise ValueError(f"{path}: no tuned weights of this toolkit; {advice}")
    if not force and said.get("generator_hash") not in ("", G.meta["hash"]):
        raise ValueError(f"{path}: weights for another generator; {advice}")
    for name, value in found.items():
        weight, shape = weights.get(name), list(value.shape)
        factor = [*weight.shape[:2], 1, 1] if weight is not None and CONVOLUTION.fullmatch(name) else None
        if weight is None or shape not in (list(weight.shape), factor):
            raise ValueError(f"{path}: {name[:60]!r} {shape} is no weight of this generator; {advice}")
        if name == TRANSFORM and (value.dtype != torch.float32 or not motion.is_one(value)):
            raise ValueError(f"{path}: {name} is no turn, scaling by 0.1 to 10 and shift, in float32; {advice}")
        if (name != TRANSFORM and value.dtype != torch.float16) or not torch.isfinite(value).all():
            raise ValueError(f"{path}: {name} is no float16, or holds NaN or infinity; {advice}")
    return {name: value.to(G.w_avg.device) for name, value in found.items()} or None
