"""What every command opens first: device, number format, generator, distance, the way to the optimiser, and the record of a result.

session = open(args)                                 # --device, --precision, --weight_file, --seed
face = session.read(path)                            # --force, --no_saved_noise
for first, last, found in session.embed(goal, config, ...):
    face.write(path, found.ws, session.record("encode_image.py", ...))

Which number format a saved picture is rendered in is one rule for all commands, stills and frames: float32, without TF32 and not
compiled, unless --precision bf16 asks for bfloat16. So a face's picture is the same whichever format `auto` chose for the steps that
found it, and what one command writes another renders to the bit. `auto` and tf32 are for the optimiser's steps alone.
"""

import os
import re
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from editor import __version__, checkpoints, classes, cli, face, files, images, parallel, projection, render, tuning
from editor.claims import claim, claim_again, content_hash, origins, parts_of, reserve  # noqa: F401 (a session's, to commands)
from editor.settings import DISTANCES, Tuning

ONE_THREAD_UP_TO = 256  # side of a generator's pictures, on a CPU
COMPILING = 71.0  # seconds that compiling a step takes (measured)
GAIN = 0.08  # seconds that a compiled step of one image at 1024 saves on a CPU (measured); it goes with the pixels
BUFFERS_COUNT_FROM = 512  # side from which steps on a CPU take a quarter longer where freed buffers are not kept (`cli.keep_buffers`)


@dataclass
class Session:
    """An open generator and what goes with it.

    G: the generator, frozen, on `device`. dtype: of its convolutions in pictures. compile: what --compile says. perceptual: the
    distance's name. step_dtype: of its convolutions in the optimiser's steps (None: the same). tf32: whether what is float32 in those
    takes TF32. images: how many there are to embed, as far as it is known.
    """

    G: object
    device: object
    dtype: object
    seed: int = 0
    force: bool = False
    saved_noise: bool = True
    tuned_strength: float = 1.0
    compile: str = "auto"
    perceptual: str = "bundled"
    remarks: list = field(default_factory=list)
    _distance: object = None
    step_dtype: object = None
    tf32: bool = False
    images: int = 1

    def read(self, path):
        """A file's faces, on the session's device: `face.read`; what a user should know is added to `remarks`."""
        found = face.read(path, self.G, self.force, self.saved_noise, self.tuned_strength)
        return self._taken(found)

    def read_one(self, path):
        """As `read`, of a file that must hold one face."""
        return self._taken(face.read_one(path, self.G, self.force, self.saved_noise, self.tuned_strength))

    def wearing(self, person):
        """This session with the generator as it is for a face: to render and optimise with, not to write by."""
        return replace(self, G=tuning.worn(self.G, person.tuned)) if person.tuned else self

    @property
    def dtype_name(self):
        """The steps' number format: float32, tf32 or bfloat16 (which on a CUDA card implies TF32 for the rest)."""
        name = str(self.step_dtype or self.dtype).removeprefix("torch.")
        return "tf32" if self.tf32 and name == "float32" else name

    @property
    def formats(self):
        """What --precision came to, in words."""
        steps = self.dtype_name + (" and tf32" if self.tf32 and self.dtype_name != "tf32" else "")
        pictures = str(self.dtype).removeprefix("torch.")
        return steps if steps == pictures else f"{steps} (pictures {pictures})"

    def compiles(self, config, images=1):
        """Whether this session takes torch.compile for a `settings.Config` and so many images at least.

        On a CPU pictures of half the side (`coarse`), which are not compiled, save a third of the time, and compiling a tenth.
        """
        if self.compile == "auto" and self.device.type == "cpu" and config.coarse:
            return False
        config = config.steps, max(images, self.images)
        return compiles(self.compile, self.device, self.step_dtype or self.dtype, self.G.resolution, *config)

    def way(self, config):
        """How the steps of a `settings.Config` are carried out, in words."""
        return "steps recorded as a CUDA graph" if self.captures else f"compile {'on' if self.compiles(config) else 'off'}"

    @property
    def captures(self):
        """Whether a step is recorded and replayed: on CUDA cards, whose thousand launches a step take longer than its work."""
        return self.device.type == "cuda" and self.compile == "auto"

    def _taken(self, found):
        self.remarks += found.remarks
        return found.to(self.device)

    @property
    def said_class(self):
        """{"class": N} of --class, for records and settings; {} where none was asked for."""
        number = classes.chosen(self.G)
        return {} if number is None else {"class": number}

    def photo(self, path, as_it_lies=False):
        """An aligned photograph, [1, 3, R, R] in [-1, 1]; `remarks` gains a line where nothing aligned it (`as_it_lies`: none)."""
        pixels = images.load(path, self.G.resolution)
        self.remarks += [] if as_it_lies else filter(None, [unaligned(path, self.G)])
        return pixels

    def place(self, path):
        """How StyleGAN3's input is to be turned, scaled and shifted so that its face lies where a square picture's lies: float32 [3, 3].

        By the landmarks in the record that align_images.py wrote beside the picture, else by those that dlib finds.

        Raises:
            ValueError: no face found, or one that is far from the size that the generator draws.
        """
        import numpy as np

        from editor import landmarks, motion

        picture = images.open_image(path)
        try:
            marks = landmarks.in_square(picture, face.record(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        quad = landmarks.face_quad(marks, **(self.G.meta["alignment"] or checkpoints.FFHQ_ALIGNMENT))
        size, off = landmarks.side_of(quad) / picture.width, np.abs((quad.mean(0) + 0.5) / picture.width - 0.5).max()
        if off > 0.5:
            raise ValueError(f"{path}: the middle of its face lies outside of the picture; cut it out with align_images.py --upright")
        if not UNALIGNED[0] <= size <= UNALIGNED[1]:  # nor NaN
            raise ValueError(
                f"{path}: its face has {size:.2f} of the size that this generator draws, and {UNALIGNED[0]} to {UNALIGNED[1]} can be "
                "placed; cut it out with align_images.py --upright"
            )
        return motion.of_square(quad, picture.width).to(self.device)

    def guess(self, person):
        """The encoder's guess at a face's rendering, [1, L, 512]; its own latent where the generator has no encoder.

        Guesses at two pictures of a person differ in what the pictures differ in; latents that were found apart, in more.
        """
        import torch

        if not checkpoints.has_encoder(self.G):
            return person.ws
        _, encoder = self.start("encoder")
        with torch.no_grad():
            return encoder(self.wearing(person).G.synthesis(person.ws, noise=person.maps).clamp(-1, 1))

    def distance(self):
        """The perceptual distance that --perceptual or the checkpoint names, loaded once."""
        if self._distance is None and self.perceptual != "none":
            self._distance = load_distance(self.perceptual, self.device, self.step_dtype)
        return self._distance

    def start(self, init, space="w+", whole=True):
        """`--init` -> what a `settings.Config` takes for init and noise, and an encoder or None.

        Args:
            init: a key of INITS, "encoder", the file of an encoder (.safetensors) or of a latent; None: the encoder where the
                project has one for this generator, else the mean latent.
            whole: whether the whole face is to be seen: an encoder's guess needs it.
        """
        if init is None:
            init = "z" if space == "z" else "encoder" if whole and space != "z" and checkpoints.has_encoder(self.G) else "mean"
        if str(init).endswith(tuning.SUFFIX):
            raise ValueError(f"{init}: weights that were tuned around a face; give its latent, {str(init).removesuffix(tuning.SUFFIX)}.npy")
        if init == "z":
            classes.require(self.G)
        if init == "encoder" or str(init).endswith(".safetensors"):
            path = checkpoints.BUNDLED["encoder"] if init == "encoder" else init
            return {"init": "mean"}, checkpoints.load_encoder(path, self.G, self.device)
        if not str(init).endswith(face.SUFFIXES):
            return {"init": init}, None
        found = self.read_one(init)
        if found.tuned:
            self.remarks.append(f"{init}: the start is its latent and noise maps; its tuned weights, and how it lies, are left out")
        return {"init": found.ws, "noise": found.maps}, None

    def embed(self, goal, config, encoder=None, size=None, callback=None, show=None, warn=None, tuned=None, together=False):
        """The one way to the optimiser: `projection.project_in_parts` with this session's generator, distance and number format.

        Args:
            tuned: a `settings.Tuning`: then the generator is tuned around each latent, and the noise maps come last (`tuning.follow`).
            together: one set of weights for all images, once all their latents are found.
        """
        config.dtype = self.step_dtype or self.dtype
        config.compile = self.compiles(config, len(goal.image))
        config.capture = self.captures
        tuned = tuned or Tuning()
        if self.device.type == "cpu" and self.G.resolution <= ONE_THREAD_UP_TO and not config.compile and not together:
            yield from parallel.images(
                lambda part, *heard: self._embed(part, config, encoder, 1, *heard, warn, tuned), goal, callback, show
            )
        else:
            yield from self._in_steps_format(self._embed(goal, config, encoder, size, callback, show, warn, tuned, together))

    def _in_steps_format(self, parts):
        """The same parts; TF32 is allowed while they are worked on, and not while whoever takes them renders."""
        while True:
            with tf32_allowed(self.tf32):
                part = next(parts, None)
            if part is None:
                return
            yield part

    def _embed(self, goal, config, encoder, size, callback, show, warn, tuned, together=False):
        """`embed`, in one thread of ours."""
        later, began = tuned.steps + config.noise_iteration if tuned.steps else 0, time.time()
        latents = replace(config, noise_iteration=0) if later else config
        ways = self.G, self.distance()
        parts = projection.project_in_parts(*ways, goal, latents, size, encoder, callback, show, warn, 0 if together else later)
        parts = list(parts) if together else parts
        for first, last, found in [(0, parts[-1][1], projection.joined([part for *_, part in parts]))] if together else parts:
            before = len(goal.image) * latents.steps if together else first * later + last * latents.steps
            if later and not found.interrupted:
                tuning.follow(
                    *ways, goal.part(first, last), found, config, tuned, together,
                    (lambda steps, losses, before=before: callback(before + steps, losses)) if callback else None,
                    (lambda k, step, seen, first=first: show(first + k, step, seen)) if show else None,
                )  # fmt: skip
            if goal.transform is not None:  # a face carries how it lies with its weights
                placed = [{tuning.TRANSFORM: transform} for transform in goal.part(first, last).transform]
                found.tuned = [one | (own or {}) for one, own in zip(placed, found.tuned or [None] * len(placed), strict=True)]
            found.seconds, began = (time.time() - began) / (last - first), time.time()
            if found.not_compiled and self.compile != "off":
                self.compile, config.compile, latents.compile = "off", False, False  # those that follow need not find out
                self.remarks.append(f"the steps could not be compiled, and ran as they are: {found.not_compiled}")
            yield first, last, found
            if found.interrupted:
                return

    def embed_one(self, goal, config, encoder=None, callback=None, warn=None, tuned=None):
        """As `embed`, for one result: a projection.Projection of all images of the goal.

        Raises:
            ValueError: the loss stopped being finite.
            KeyboardInterrupt: Ctrl-C before all images were begun: half of a pair is nothing.
        """
        parts = [found for *_, found in self.embed(goal, config, encoder, None, callback, None, warn, tuned)]
        if any(any(found.diverged) for found in parts):
            raise ValueError(DIVERGED.format(steps=parts[-1].steps))
        if sum(len(found.ws) for found in parts) < len(goal.image):
            raise next(found.interrupted for found in parts if found.interrupted)
        return projection.joined(parts)

    def record(self, made_by, sources, **more):
        """What the `.json` beside a result says: where it comes from, by which generator and which versions.

        Args:
            made_by: the command.
            sources: {role: path} of the files that it was made of; their sha256 is noted.
        """
        import numpy
        import torch

        return {
            "made_by": made_by,
            "sources": origins(sources),
            **more,
            **files.typed(made_by),
            **self.said_class,
            "seed": self.seed,
            "generator": str(self.G.meta["path"]),
            "generator_hash": self.G.meta["hash"],
            "precision": self.dtype_name,
            "pictures": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "toolkit": __version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        }

    def write(self, path, picture, found, info, latent=None):
        """Write a result whole: the face, its picture, and the record, last, which says that they belong together.

        Args:
            path: NAME.png, or another ending of a picture.
            picture: as `images.save` takes it.
            found: face.Face; None: there is only the picture, and latents that an earlier run left are removed (said in `remarks`).
            info: what `record` gives.
            latent: the face's file (default: NAME.npy beside the picture).

        Returns:
            list of the paths to tell of.

        Raises:
            ValueError: another process wrote a result of other sources there meanwhile.
        """
        path = Path(path)
        latent = Path(latent or path.with_suffix(".npy"))
        if "sources" in info:
            claim_again(latent, info["sources"])
        try:
            before = face.record(latent)
        except ValueError:
            before = {}
        earlier = files.file_hash(path) if path.is_file() else None

        def finish():
            images.save(path, picture)
            if earlier not in (None, files.file_hash(path)) and before.get("complete", True):  # what was stopped is to be replaced
                what = "what an earlier run made of the same files with other settings" if before.get("files") else "a picture of that name"
                self.remarks.append(f"{path}: replaces {what}")
            return {"picture": {"path": str(path), "sha256": files.file_hash(path)}}

        if found is not None:
            face.write(latent, found.ws, info, face.changed(found.noise, self.G), found.tuned, finish)
            return [path, latent]
        ours = latent.is_file() and (before.get("files") or {}).get("latent") == files.file_hash(latent)
        said = finish()
        files.write_json(latent.with_suffix(".json"), info | said | {"files": {"picture": said["picture"]["sha256"]}})
        if ours:
            latent.unlink()
            for part in face.outputs(latent)[1:-1]:
                part.unlink(missing_ok=True)
            self.remarks.append(f"{latent}: removed, since {path.name} was made anew without latents")
        return [path]

    def save(self, path, person, info):
        """`write` a `face.Face` of one latent as NAME.npy with its rendering: rendered again, it is this picture to the bit.

        Args:
            path: the picture, with an ending that `images.save` writes, else NAME.png is: what a command claimed, and no other file.
        """
        shown = person if face.changed(person.noise, self.G) else replace(person, noise=None)
        path = path if path.suffix.lower() in images.WRITES else path.with_suffix(".png")
        return self.write(path, render.one(self.G, shown, self.dtype), person, info)


DIVERGED = "the loss stopped being finite after {steps} steps, and nothing was written; lower --lr, or the weights of the losses"


def open(args):
    """The flags of `cli.add_model_flags`, and of `cli.add_face_flags` and `cli.add_embedding_flags` where a command has them -> Session.

    Raises:
        ValueError, OSError: no such device, checkpoint or name.
    """
    import torch

    chosen = device(args.device)
    allow_tf32(False)
    torch.manual_seed(args.seed)
    G = checkpoints.load_generator(args.weight_file, chosen)
    classes.choose(G, getattr(args, "class", None))
    remarks = []
    if args.precision == "bf16" and chosen.type == "cuda" and not native_bfloat16(chosen):
        remarks.append(f"{chosen}: this card has no bfloat16 and emulates it, slowly; --precision fp32 is faster here")
    if cli.BUFFERS_KEPT is False and chosen.type == "cpu" and G.resolution >= BUFFERS_COUNT_FROM:
        remarks.append("the C library does not keep freed buffers, as it was asked to; steps take about a quarter longer")
    return Session(
        G, chosen, torch.bfloat16 if args.precision == "bf16" else torch.float32, args.seed, getattr(args, "force", False),
        not getattr(args, "no_saved_noise", False), getattr(args, "tuned_strength", 1.0), getattr(args, "compile", "auto"),
        getattr(args, "perceptual", None) or G.meta["perceptual"] or "vgg16", remarks,
        step_dtype=dtype(args.precision, chosen, G.resolution), tf32=takes_tf32(args.precision, chosen),
    )  # fmt: skip


ALIGNED = ("aligned_images", "source_image")  # where align_images.py writes, and where LatentEditor looked


def aligned_folder(given=None):
    """--src_dir, or the first of ALIGNED that is there.

    Raises:
        ValueError: none is.
    """
    if given is not None:
        return Path(given)
    for name in ALIGNED:
        if Path(name).is_dir():
            return Path(name)
    raise ValueError(
        f"no folder {' or '.join(ALIGNED)} here; cut faces out with align_images.py photographs/ aligned_images/, or give --src_dir"
    )


def aligned_image(name, given=None):
    """What a user calls an aligned image: a name in --src_dir (by default in the folders of ALIGNED), else a path.

    Raises:
        ValueError: it is nowhere; says where it was looked for.
    """
    folders = [Path(given)] if given is not None else [Path(folder) for folder in ALIGNED]
    for path in [folder / name for folder in folders] + [Path(name)]:
        if path.is_file():
            return path
    if Path(name).exists():  # a folder, a pipe: the reader says what it is
        return Path(name)
    raise ValueError(f"{name}: no such image, neither in {' nor in '.join(map(str, folders))} nor as a path")


UNALIGNED = 0.8, 1.25  # sizes of a face, to what the generator draws, that its input is scaled to: it learned turns and shifts alone
CROP_FILLS = 0.75  # a face that fills less of its picture was not cut out for this generator (crops measured: 0.97 to 1.03)


def unaligned(path, G):
    """A sentence for a picture that no record says was aligned, and whose face is smaller than the generator expects; else None."""
    from editor import landmarks

    beside = Path(path).with_suffix(".json")
    said = face.record(path)
    if beside.is_file() and "quad" in said:
        upright = isinstance(said.get("settings"), dict) and said["settings"].get("upright")
        how = "encode it with encode_image.py --unaligned" if G.kind == "stylegan3" else "cut it out without --upright"
        return f"{path}: cut out with align_images.py --upright, so its face may lie turned; {how}" if upright else None
    picture = images.open_image(path)
    if picture.width <= G.resolution:  # as large as a crop for this generator: it was made for it
        return None
    share = landmarks.fills(picture, G.meta["alignment"] or checkpoints.FFHQ_ALIGNMENT)
    if share is None or share >= CROP_FILLS:
        return None
    return f"{path}: its face fills {share:.0%} of what this generator expects; cut it out first: align_images.py {path} aligned_images/"


def load_distance(name, device="cpu", dtype=None):
    """A key of DISTANCES -> the perceptual distance, frozen; None for "none". dtype: of VGG16's convolutions (default: float32).

    Raises:
        ValueError: an unknown name.
        OSError: VGG16 could not be downloaded.
    """
    import perceptual_model

    if name not in DISTANCES:
        raise ValueError(f"--perceptual {name}: use {', '.join(DISTANCES)}")
    if name == "none":
        return None
    if name == "bundled":
        return checkpoints.load_features(checkpoints.BUNDLED["features"]).to(device)
    found = _vgg(perceptual_model.LPIPS() if name == "lpips" else perceptual_model.VGG16(), name).to(device)
    return found if dtype is None else found.computed_in(dtype)


def _vgg(distance, name):
    from http.client import HTTPException
    from pickle import UnpicklingError

    import torch
    import torchvision

    try:
        chosen = torchvision.models.VGG16_Weights.IMAGENET1K_V1
        weights = chosen.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, HTTPException, UnpicklingError) as error:  # off line; cut; not the published file
        advice = f"use --perceptual bundled, or remove what lies in {torch.hub.get_dir()}/checkpoints and try again"
        # PyTorch's own words advise to load a damaged file without protection
        reason = "the file is cut or damaged" if isinstance(error, (EOFError, UnpicklingError)) else error
        raise OSError(f"--perceptual {name}: VGG16 could not be downloaded or read ({reason}); {advice}") from None
    distance.load_torchvision(weights)
    if name == "lpips":
        import lpips

        distance.load_linear(torch.load(Path(lpips.__file__).parent / "weights/v0.1/vgg.pth", weights_only=True, map_location="cpu"))
    return distance


def device(name):
    """`--device` -> torch.device; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ValueError: the name is unknown, or the device is not there.
    """
    import torch  # here, so that --help answers at once

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:[0-9]{1,3})?", name):  # PyTorch knows others, such as meta, that compute nothing
        raise ValueError(f"--device {name}: unknown; use auto, cpu, cuda, cuda:N or mps")
    chosen = torch.device(name)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: this machine shows {torch.cuda.device_count()} CUDA devices to PyTorch; use --device cpu")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {name}: not available here; use --device cpu")
    return chosen


def dtype(name, device, resolution=0):
    """`--precision` -> the torch.dtype of the convolutions where something is optimised; "auto" takes bfloat16 where the hardware
    multiplies it and it pays: CUDA cards from Ampere on, CPUs with AMX, and those with AVX-512's bfloat16 from `resolution` 512 on;
    else float32, which is tf32's type as well.
    """
    import torch

    if name == "auto":
        if device.type == "cpu":
            pays = torch.cpu._is_amx_tile_supported() or (resolution >= 512 and torch.cpu._is_avx512_bf16_supported())
        else:
            pays = native_bfloat16(device)
        name = "bf16" if pays else "fp32"
    return torch.bfloat16 if name == "bf16" else torch.float32


def native_bfloat16(device):
    """Whether a device is a CUDA card that multiplies bfloat16: a T4 or V100 answers yes, too, and then emulates it."""
    import torch

    if device.type != "cuda":
        return False
    with torch.cuda.device(device):  # PyTorch asks the current one
        return torch.cuda.is_bf16_supported(including_emulation=False)


def takes_tf32(name, device):
    """`--precision` -> whether what is float32 in the steps may take TF32, which CUDA cards have; all but fp32 does."""
    return device.type == "cuda" and name != "fp32"


def allow_tf32(allowed):
    """Let products of float32 on CUDA cards round their factors to TF32's 10 bits, or not. PyTorch lets convolutions, by default.

    Returns:
        What was allowed before: products of matrices and convolutions, a pair.
    """
    import torch

    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matrices.allow_tf32, convolutions.allow_tf32
    matrices.allow_tf32, convolutions.allow_tf32 = allowed if isinstance(allowed, tuple) else (allowed, allowed)
    return before


@contextmanager
def tf32_allowed(allowed):
    """A block with `allow_tf32`."""
    before = allow_tf32(allowed)
    try:
        yield
    finally:
        allow_tf32(before)


def compiles(choice, device, dtype, resolution, steps, images=1):
    """`--compile` -> whether to take torch.compile; "auto" takes it where so many steps of so many images win back what compiling
    costs: on CPUs with bfloat16 (measured so only; benchmarks/README.md) if there is a C++ compiler. CUDA cards record a step instead.
    """
    if choice != "auto":
        return choice == "on"
    compiler = any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "cl")))
    gain = GAIN * (resolution / 1024) ** 2 if device.type == "cpu" and str(dtype) == "torch.bfloat16" and resolution >= 512 else 0.0
    return bool(compiler) and steps * images * gain > COMPILING
