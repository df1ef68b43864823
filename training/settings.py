"""What a training of a generator may be told, with its defaults; without torch, so that `--help` and the first line come at once."""

import dataclasses

from training.config import check, setting


@dataclasses.dataclass
class Config:
    """Settings of a run. Rates suit batches of 32 images.

    Raises:
        ValueError: a value that makes no sense (NaN, a negative rate, a batch of none, ...).
    """

    images: int = setting(200_000, "images shown to the discriminator, all runs together", least=1)
    batch: int = setting(32, "images a step, over all processes", least=1)
    lr: float = setting(0.0025, "highest learning rate of generator and discriminator (Adam, betas 0 and 0.99)", above=0)
    fall: float = setting(0.2, "last share of the images, over which the learning rates sink to a tenth; 0: they stay", least=0, most=1)
    warm: int = setting(1000, "first images, over which the learning rates rise from 0", least=0)
    gamma: float = setting(0.4, "weight of R1, the penalty on the discriminator's slope at real images; more is calmer", least=0)
    r1_every: int = setting(16, "steps from one R1 penalty to the next", least=1)
    ema: float = setting(5000.0, "half-life, in images, of the average of the generator's weights, which is what is saved", above=0)
    mixing: float = setting(0.5, "share of the samples whose layers come from two latents", least=0, most=1)
    path_length: float = setting(0.0, "weight of path-length regularisation, every 8 steps; StyleGAN2's is 2", least=0)
    augment: str = setting("none", "of what the discriminator sees: diff, always; ada, as much as --ada_target says; or none",
                           choices=("none", "diff", "ada"))  # fmt: skip
    ada_target: float = setting(0.6, "ada augments more while the mean sign of the scores of real images is above this", least=-2, most=1)
    ada_images: int = setting(500_000, "images over which ada may rise from no augmentation to always", least=1)
    heads: float = setting(0.0, "weight of the projected heads in the generator's loss; 0: none", least=0)
    ramp: int = setting(3000, "first images, over which that weight rises from 0", least=0)
    heads_share: float = setting(0.5, "share of the batch that the heads see", above=0, most=1)
    heads_lr: float = setting(0.002, "learning rate of the heads", above=0)
    reconstruct: float = setting(0.0, "weight of the reconstructions by an encoder, then half of each batch; 0: none", least=0)
    encoder_lr: float = setting(0.003, "learning rate of the encoder, as a share of each weight's size", above=0)
    critic: float = setting(0.1, "weight of the critic in W that draws the encoder's latents and the mapping network's together", least=0)
    freeze_d: int = setting(0, "blocks of the discriminator, from the image on, that stay as they are", least=0)
    tick: int = setting(2000, "images (not steps) from one saved state, sheet and line of the log to the next", least=1)
    seed: int = setting(0, "of everything drawn at random", least=0, most=10**12)

    def __post_init__(self):
        check(self)
        if self.reconstruct and self.batch < 2:
            raise ValueError(f"--batch {self.batch}: --reconstruct takes half of each batch, so it needs 2 or more")

    def share(self, ranks):
        """Images of a batch that each of `ranks` processes takes.

        Raises:
            ValueError: they cannot share it evenly, or a share has no half for --reconstruct.
        """
        from training import processes  # which brings PyTorch

        return processes.share(self.batch, ranks, least=2 if self.reconstruct else 1)


@dataclasses.dataclass
class NewNetworks:
    """Sizes of networks that start from nothing; --init brings its own."""

    kind: str = setting("stylegan2", "of a new generator: stylegan1 or stylegan2", choices=("stylegan1", "stylegan2"))
    resolution: int = setting(128, "pixels a side, a power of two", least=4, most=1024)
    channel_base: int = setting(2048, "channels of a new generator at a resolution: this divided by the resolution", least=4, most=2**16)
    channel_base_d: int = setting(0, "the same of its discriminator; 0: as the generator's", least=0, most=2**16)
    channel_max: int = setting(256, "and at most so many channels, in both", least=1, most=2048)
    mapping_layers: int = setting(4, "layers of a new mapping network", least=1, most=64)

    __post_init__ = check


PRESETS = {  # what a flag that is not given is set to
    "few": {"images": 2400, "batch": 8, "lr": 0.0002, "fall": 0.5, "warm": 300, "gamma": 1.0, "ema": 500.0, "augment": "ada",
            "ada_images": 5000, "freeze_d": 2, "reconstruct": 8.0, "tick": 400},
}  # fmt: skip
PRESET_HELP = {"few": "for folders of some ten to some hundred faces, from the bundled networks on (or --init, --init_d, --init_encoder)"}
START = {  # of a preset, where no other networks are given: files of weight_files/
    "init": "faces128.safetensors",
    "init_d": "faces128_discriminator.safetensors",
    "init_encoder": "encoder.safetensors",
}
SPREAD = 1.2  # of a preset's --fit_mapping, where there is an encoder to fit to
