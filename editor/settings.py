"""What the optimiser may be told, with its defaults; without torch, so that `--help` answers at once."""

import math
from dataclasses import dataclass

SPACES = {"w+": "one w per layer", "w": "one w for all layers", "z": "the input of the mapping network"}
INITS = {"mean": "the mean latent", "zeros": "zeros (LatentEditor)", "uniform": "uniform in [-1, 1]", "z": "the mapping of a random z"}
SCHEDULES = {"cosine": "short warm-up, constant, then a cosine to 0 over the last quarter", "constant": "the same all along"}
DISTANCES = {  # what --perceptual may say
    "bundled": "first stages of EfficientNet-lite0, comes with the project",
    "vgg16": "torchvision's VGG16 (downloaded once), Image2StyleGAN's layers",
    "lpips": "LPIPS on VGG16 (downloaded once)",
    "none": "mean squared error alone",
}
COMPILES = {"auto": "where it pays", "on": "always", "off": "never"}
PRESETS = {  # of encode_image.py: what a flag that is not given is set to
    "editable": {"w_iteration": 40, "iteration": 0, "lambda_prior": 0.0, "lambda_cosine": 3.0, "tune": 100, "coarse": 0.7},
    "exact": {"w_iteration": 0, "iteration": 1000, "lambda_prior": 0.0, "lambda_cosine": 0.0, "tune": 0, "coarse": 0.7},
    "latenteditor": {"w_iteration": 0, "iteration": 1000, "lambda_prior": 0.0, "lambda_cosine": 0.0, "tune": 0, "coarse": 0.0,
                     "init": "zeros", "lr": 0.01, "schedule": "constant"},
}  # fmt: skip
BETAS = {"latenteditor": (0.9, 0.999)}  # of presets that have Adam's usual ones
PRESET_HELP = {
    "editable": "one w, and what it misses in weights tuned around it",
    "exact": "free in W+",
    "latenteditor": "free in W+, from zeros, as LatentEditor",
}
TUNED_FORMS = {"kernel": "one factor for each convolution kernel: small files", "full": "all weights of the convolutions"}
WEIGHTS = (
    "lambda_mse",
    "lambda_percep",
    "lambda_style",
    "lambda_start",
    "lambda_prior",
    "lambda_cosine",
    "lambda_noise",
    "early_stop",
    "coarse",
)


@dataclass
class Config:
    """Settings of `projection.project`. Defaults suit faces; LatentEditor: init zeros, lr 0.01, schedule constant.

    Raises:
        ValueError: a name that is not known, a rate that is not above 0, a weight or a number of steps below 0.
    """

    iteration: int = 1000
    w_iteration: int = 0  # before them, steps with one w for all layers (space w+ only): a start that stays a plausible face
    space: str = "w+"
    init: object = "mean"  # a key of INITS, or latents [N or 1, L, 512]
    lr: float = 0.1
    schedule: str = "cosine"
    lambda_mse: float = 1.0
    lambda_percep: float = 1.0
    lambda_style: float = 1.0  # counts where the goal has a style image
    lambda_start: float = 0.0  # holds the latent near the one it starts from
    lambda_prior: float = 0.0  # holds each layer's w where the mapping network puts w
    lambda_cosine: float = 0.0  # holds each layer's style where styles point, whatever their length
    layers: list | None = None  # the W+ layers that may move; None: all
    noise: object = "const"  # what the maps are, or start from: "const", "none", "random", or a list of maps [N or 1, 1, r, r]
    noise_iteration: int = 0  # steps of the noise maps alone, after the latent
    noise_lr: float = 0.02  # how far a step moves what a map adds to the activations: strength * map
    noise_layers: list | None = None  # the noise maps that may move; None: all
    lambda_noise: float = 0.0  # holds the maps near those they start from
    joint: bool = False  # move the maps together with the latent, too (Image2StyleGAN++ advises against it)
    coarse: float = 0.0  # share of the steps of a stage, its first, whose pictures have half the side (editor/coarse.py)
    betas: tuple = (0.8, 0.95)  # Adam's: of some hundred steps, each has to count for more than with its usual 0.9 and 0.999
    early_stop: float = 0.0  # stop when 100 steps lower the loss by less than this share; 0: never
    check_every: int = 10  # steps between looks at the losses (each look waits for the device)
    show_every: int = 0  # steps between pictures for `show`; 0: none
    seed: int = 0
    dtype: object = None  # torch.dtype of the generator's convolutions, None: float32; latents, losses and RGB stay float32
    compile: bool = False  # torch.compile of rendering and losses
    capture: bool = False  # rendering, losses and their gradient as one CUDA graph (editor/graphs.py)
    low_memory: bool = False  # render layers of 128x128 and more a second time in the backward pass instead of keeping them

    def __post_init__(self):
        for name, known in (("space", SPACES), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise ValueError(f"--{name} {getattr(self, name)}: use {', '.join(known)}")
        if isinstance(self.init, str) and self.init not in INITS:
            raise ValueError(f"--init {self.init}: use {', '.join(INITS)}, encoder, or a latent file")
        for name in ("iteration", "w_iteration", "noise_iteration", "show_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} {getattr(self, name)}: 0 or more")
        for name in ("lr", "noise_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{name} {getattr(self, name)}: a finite number above 0")
        for name in WEIGHTS:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"--{name} {getattr(self, name)}: a finite number, 0 or more")
        if not 0 <= self.coarse <= 1:
            raise ValueError(f"--coarse {self.coarse}: a share, 0 to 1")
        if self.layers is not None and self.space != "w+":
            raise ValueError("--layers needs --space w+: the other spaces have one vector for all layers")

    @property
    def steps(self):
        """Steps in all stages."""
        return self.w_iteration + self.iteration + self.noise_iteration


@dataclass
class Tuning:
    """Settings of `tuning.tune`. Pivotal tuning (Roich et al. 2021): lr 0.0003, form full, locality off.

    Raises:
        ValueError: a name that is not known, a rate that is not above 0, a weight or a number of steps below 0.
    """

    steps: int = 0
    form: str = "kernel"
    from_side: int = 16  # side in pixels of the coarsest layers that are tuned: with coarser ones edits go less far (benchmarks)
    lr: float = 0.013  # at 0.018 edits go a sixth less far (benchmarks)
    pixels: float = 4.0  # times lambda_mse: the latent's stage has found what the face is, this one what it looks like
    locality: float = 0.5  # weight of what holds the generator's other faces as they are
    locality_every: int = 4  # steps between looks at another face
    reach: float = 0.8  # how far from the pivot that face lies, in units of the usual distance of faces from the mean latent
    until: float = 0.0  # stop when the rendering is this near to the image, PSNR in dB; 0: never
    together: int = 4  # images of one person looked at in a step, where several share their weights

    def __post_init__(self):
        if self.form not in TUNED_FORMS:
            raise ValueError(f"--tune_form {self.form}: use {', '.join(TUNED_FORMS)}")
        for name in ("steps", "locality", "until", "reach"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"--tune_{name} {getattr(self, name)}: a finite number, 0 or more")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"--tune_lr {self.lr}: a finite number above 0")


DRAGS = {"track": "DragGAN's: move a patch, then look where it is", "free": "FreeDrag's: ask for the patch a little further on"}


@dataclass
class Drag:
    """Settings of `dragging.drag`, measured (benchmarks/README.md); r1 and r2 in pixels of the feature map."""

    method: str = "track"
    iteration: int = 100  # steps at most
    lr: float = 0.02
    r1: float = 2.0  # radius of the patch that is moved
    r2: float = 6.0  # how far from where it was a point is looked for
    lambda_mask: float = 5.0  # holds the features where the mask is black
    lambda_start: float = 1.0  # holds the latent near the one it starts from: without it photographs melt
    layers: list | None = None  # W+ layers that move; None: all that the feature map is made of

    def __post_init__(self):
        if self.method not in DRAGS:
            raise ValueError(f"--method {self.method}: use {', '.join(DRAGS)}")


# What the bundled attribute network scores (`networks`)
ATTRIBUTES = ("gender", "age", "yaw", "smile", "glasses")

# How a direction is kept to the one attribute that it changes most (`purify`)
PURIFY = {
    "condition": "without its share along what changes the others",
    "layers": "so, and only in those layers where that changes the picture least",
    "channels": "in style space, the few channels that change it with the least else",
    "gradient": "in W, the way that changes it with the least else",
}
