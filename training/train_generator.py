"""Train or fine-tune a StyleGAN generator on a folder, .zip or .tar of images.

    python -m training.train_generator --data my_faces/ --init faces.safetensors --init_d faces_discriminator.safetensors --out runs/mine

Non-saturating loss, lazy R1 (StyleGAN2, Karras et al. 2020), EMA, style mixing; adaptive augmentation for small sets;
optionally path-length regularisation, projected heads beside the discriminator (training/projected.py), and an encoder
whose reconstructions of real images train the generator, too (training/reconstruct.py). After each tick it writes to
--out: state.pt (everything; a stopped or killed run goes on from there), sheet.png (64 samples, psi 0.7), a line of
log.jsonl, and generator.safetensors / discriminator.safetensors / encoder.safetensors. Several GPUs: start it by torchrun.
"""

import copy
import dataclasses
import json
import math
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from editor import checkpoints, cli, files, images, session
from stylegan_layers import Config as NetworkConfig
from stylegan_layers import Discriminator, Generator
from training import augment, data, projected, reconstruct


@dataclasses.dataclass
class Config:
    """Settings of a run. Rates suit batches of 32 images."""

    images: int = 200_000  # shown to the discriminator, all runs together
    batch: int = 32
    lr: float = 0.0025  # Adam (0, 0.99), both networks; over the last `fall` of the images it sinks to a tenth
    fall: float = 0.2
    gamma: float = 0.4  # R1, every `r1_every` steps
    r1_every: int = 16
    ema: float = 5000.0  # half-life in images
    mixing: float = 0.5
    path_length: float = 0.0  # weight of path-length regularisation, every 8 steps; StyleGAN2's is 2
    augment: str = "none"  # none, diff, ada
    ada_target: float = 0.6
    heads: float = 0.0  # weight of the projected heads, ramped in over `ramp` images
    ramp: int = 3000
    warm: int = 1000  # images over which the learning rate rises from 0
    heads_share: float = 0.5  # of the batch that the heads see
    heads_lr: float = 0.002
    reconstruct: float = 0.0  # weight of the reconstructions by an encoder; half of each batch
    encoder_lr: float = 0.0005
    critic: float = 0.1  # weight of the critic in W that draws the encoder's latents and the mapping network's together
    freeze_d: int = 0  # blocks of the discriminator, from the image on, that stay as they are
    tick: int = 2000
    seed: int = 0


def log_sigmoid_loss(scores, real):
    """Non-saturating GAN loss: softplus(-score) where `real` is to be believed, else softplus(score)."""
    return F.softplus(-scores if real else scores).mean()


def sample_ws(G, count, mixing, device):
    """ws [count, L, w_dim]; with probability `mixing` all layers from a random one on come from a second z."""
    w = G.mapping(torch.randn(2 * count, G.config.z_dim, device=device))
    first, second = w[:count, None], w[count:, None]
    cut = torch.where(torch.rand(count, 1, 1, device=device) < mixing, torch.randint(1, G.num_ws, (count, 1, 1), device=device), G.num_ws)
    return torch.where(torch.arange(G.num_ws, device=device).view(1, -1, 1) < cut, first, second), w.detach().mean(0)


class Trainer:
    """The networks, their optimisers and the step. `state()` holds all that a resumed run needs."""

    def __init__(self, G, D, config, device="cpu", dtype=torch.float32, ranks=1, encoder=None, trained=False):
        self.G, self.D, self.config, self.device, self.dtype, self.ranks = G.to(device), D.to(device), config, device, dtype, ranks
        self.trained = trained  # G is worth averaging from the start on
        self.ema = Generator(G.config).to(device).eval().requires_grad_(False)
        self.ema.load_state_dict(G.state_dict())
        self.G.train().requires_grad_(True)
        self.D.train().requires_grad_(True)
        for r in list(reversed(D.config.resolutions))[: config.freeze_d]:
            getattr(D, f"b{r}").requires_grad_(False)
        self.d_weights = [p for p in D.parameters() if p.requires_grad]
        self.heads = self.vision = self.encoder = self.encoder_ema = self.critic = self.opt_h = self.opt_c = None
        if config.heads or config.reconstruct:
            self.vision = checkpoints.load_features(checkpoints.BUNDLED["features"])
        if config.heads:
            self.heads = projected.build(self.vision, G.resolution).to(device)
            self.opt_h = torch.optim.Adam(self.heads.parameters(), lr=config.heads_lr, betas=(0.0, 0.99))
        if self.vision:
            self.vision.to(device)
        # lazy regularisation: fewer steps count R1, so Adam's memory is shortened by the same share (StyleGAN2, appendix B)
        share = config.r1_every / (config.r1_every + 1)
        self.opt_g = torch.optim.Adam(G.parameters(), lr=config.lr, betas=(0.0, 0.99), eps=1e-8)
        if config.reconstruct:
            self._add_encoder(encoder or reconstruct.new_encoder(G, checkpoints.BUNDLED["features"]))
        self.opt_d = torch.optim.Adam(self.d_weights, lr=config.lr * share, betas=(0.0, 0.99**share), eps=1e-8)
        self.step_count, self.p, self.path_mean = 0, 0.0 if config.augment != "diff" else 1.0, 0.0
        if dtype != torch.float32:  # bfloat16 pays in this layout only (2 cores of a Zen 4: 14 images/s for 10.6)
            for network in filter(None, (G, D, self.vision, self.heads, self.encoder)):
                network.to(memory_format=torch.channels_last)
        self.sums = {}

    PARTS = ("G", "D", "ema", "heads", "encoder", "encoder_ema", "critic", "opt_g", "opt_d", "opt_h", "opt_c")

    def _add_encoder(self, encoder):
        c = self.config
        self.encoder, self.encoder_ema = encoder.to(self.device), copy.deepcopy(encoder).to(self.device).requires_grad_(False)
        self.encoder.requires_grad_(True).features.requires_grad_(False)
        weights = [p for p in self.encoder.parameters() if p.requires_grad]
        self.opt_g.add_param_group({"params": weights, "lr": c.encoder_lr, "scale": c.encoder_lr / c.lr})
        self.critic = reconstruct.Critic(self.G.config.w_dim).to(self.device).measure(self.G)
        self.opt_c = torch.optim.Adam(self.critic.parameters(), lr=0.001, betas=(0.0, 0.99))

    def state(self):
        state = {name: getattr(self, name).state_dict() for name in self.PARTS if getattr(self, name) is not None}
        return state | {"step": self.step_count, "p": self.p, "path_mean": self.path_mean, "random": torch.get_rng_state()}

    def load_state(self, state):
        if bool(self.encoder) != ("encoder" in state):
            how = "without" if self.encoder else "with"
            raise ValueError(f"the run that is gone on with was started {how} --reconstruct: do so again")
        for name in self.PARTS:
            if getattr(self, name) is not None and name in state:
                getattr(self, name).load_state_dict(state[name])
        self.step_count, self.p, self.path_mean = state["step"], state["p"], state["path_mean"]
        torch.set_rng_state(state["random"].cpu())

    @property
    def shown(self):
        return self.step_count * self.config.batch

    def note(self, **values):
        for k, v in values.items():
            total, count = self.sums.get(k, (0.0, 0))
            self.sums[k] = (total + v.detach(), count + 1)

    def _step(self, optimiser, loss, parameters, rate):
        """One Adam step; gradients are averaged over the processes, and NaN counts as 0."""
        parameters = [p for p in parameters if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = None if g is None else torch.nan_to_num(g, nan=0.0, posinf=1e5, neginf=-1e5)
            if self.ranks > 1 and g is not None:
                torch.distributed.all_reduce(p.grad)
                p.grad /= self.ranks
        for group in optimiser.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        optimiser.step()

    def judge(self, images):
        """The discriminator's scores, with augmentation where it is on."""
        if self.config.augment != "none" and self.p > 0:
            images = augment.augment(images, self.p)
        return self.D(images.to(self.dtype))

    def see(self, images):
        """The heads' scores of part of the batch, and the features that they come from."""
        part = images[: max(2, int(len(images) * self.config.heads_share))]
        return self.vision.features(augment.augment(part))

    def step(self, real):
        """Show a batch of real images [N, 3, R, R]: one step of each network."""
        c, n = self.config, len(real)
        t = min(1.0, self.shown / c.images)
        rate = c.lr * (max(0.1, min(1.0, (1 - t) / c.fall)) if c.fall else 1.0) * min(1.0, (self.shown + n) / max(1, c.warm))
        self.D.requires_grad_(False)
        half = n // 2 if self.encoder else 0
        ws, w_mean = sample_ws(self.G, n - half, c.mixing, self.device)
        if half:
            known, encoded = ws[:, 0], reconstruct.mostly_in_w(self.encoder(real[:half]))
            ws = torch.cat([ws, encoded])
        fake = self.G.synthesis(ws, noise="random", dtype=self.dtype)
        loss = log_sigmoid_loss(self.judge(fake), real=True)
        self.note(loss_g=loss)
        if half:
            alike, guessed = reconstruct.loss_of(fake[-half:], real[:half], encoded, self.vision), reconstruct.one_layer(encoded)
            self.critic.requires_grad_(False)
            loss = loss + c.reconstruct * alike + c.critic * reconstruct.fooled(self.critic, known, guessed)
            squares = (fake[-half:] - real[:half]).square().flatten(1).mean(1)
            in_w = torch.arange(half) % 4 != 0
            self.note(
                loss_alike=alike,
                mse=squares[~in_w].mean(),
                mse_w=squares[in_w].mean(),
                w_spread=(guessed - self.G.w_avg).norm(dim=1).mean(),
            )
        features = None
        if self.heads:
            self.heads.requires_grad_(False)
            features = self.see(fake)
            loss_h = log_sigmoid_loss(self.heads(features), real=True)
            self.note(loss_g_heads=loss_h)
            loss = loss + c.heads * min(1.0, self.shown / max(1, c.ramp)) * loss_h
        self._step(self.opt_g, loss, [p for group in self.opt_g.param_groups for p in group["params"]], rate)
        if half:
            self.critic.requires_grad_(True)
            loss_c = reconstruct.told_apart(self.critic, known.detach(), guessed.detach())
            self.note(loss_critic=loss_c)
            self._step(self.opt_c, loss_c, self.critic.parameters(), 0.001)
        if c.path_length and self.step_count % 8 == 0:
            self._path_length(n, rate)
        self._discriminator_step(fake.detach(), real, rate)
        if self.heads:
            self._heads_step([f.detach() for f in features], real, rate / c.lr * c.heads_lr)
        self._average(w_mean, n)
        self.step_count += 1

    def _discriminator_step(self, fake, real, rate):
        c, n = self.config, len(real)
        for p in self.d_weights:
            p.requires_grad_(True)
        # one pass; fakes on even places, so that the groups of minibatch_stddev (every N/4-th image) do not mix the kinds
        both = torch.stack([fake, real], 1).flatten(0, 1)
        scores = self.judge(both).view(n, 2)
        fakes, reals = scores[:, 0], scores[:, 1]
        loss = log_sigmoid_loss(fakes, real=False) + log_sigmoid_loss(reals, real=True)
        self.note(loss_d=loss, score_fake=fakes.mean(), score_real=reals.mean(), sign_real=reals.sign().mean())
        self._step(self.opt_d, loss, self.d_weights, rate)
        if self.step_count % c.r1_every == 0:
            x = real.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.judge(x).sum(), x, create_graph=True)
            r1 = gradient.float().square().sum((1, 2, 3)).mean()
            self.note(r1=r1)
            self._step(self.opt_d, r1 * (c.gamma / 2 * c.r1_every), self.d_weights, rate)
        if c.augment == "ada" and self.step_count % 4 == 3:  # ADA: 0 to 1 in 500,000 images
            total, count = self.sums["sign_real"]
            self.p = min(1.0, max(0.0, self.p + math.copysign(4 * n / 500_000, (total / count).item() - c.ada_target)))

    def _heads_step(self, fake_features, real, rate):
        """Hinge loss of the heads; the fakes' features are those of the generator's step."""
        self.heads.requires_grad_(True)
        for m in [*self.heads.mix, *self.heads.down]:
            m.requires_grad_(False)
        with torch.no_grad():
            real_features = self.see(real)
        loss = F.relu(1 + self.heads(fake_features)).mean() + F.relu(1 - self.heads(real_features)).mean()
        self.note(loss_heads=loss)
        self._step(self.opt_h, loss, self.heads.parameters(), rate)

    def _path_length(self, n, rate):
        """Steps in w should change the picture alike everywhere (StyleGAN2, equation 4), on half a batch."""
        ws, _ = sample_ws(self.G, max(1, n // 2), 0.0, self.device)
        image = self.G.synthesis(ws, noise="random", dtype=self.dtype)
        noise = torch.randn_like(image) / image[0, 0].numel() ** 0.5
        (gradient,) = torch.autograd.grad((image * noise).sum(), ws, create_graph=True)
        lengths = gradient.square().sum(2).mean(1).sqrt()
        mean = self.path_mean + 0.01 * (lengths.mean().item() - self.path_mean)
        penalty = (lengths - mean).square().mean()
        self.path_mean = mean
        self.note(path=penalty)
        self._step(self.opt_g, penalty * self.config.path_length * 8, self.G.parameters(), rate)

    @torch.no_grad()
    def _average(self, w_mean, n):
        self.G.mapping.w_avg.lerp_(w_mean, 0.005)
        young = math.inf if self.trained else max(1.0, 0.05 * self.shown) + n  # the average forgets a new network's first images
        keep = 0.5 ** (n * self.ranks / min(self.config.ema, young))
        for average, now in ((self.ema, self.G), (self.encoder_ema, self.encoder)):
            if now is not None:
                for mine, its in zip(average.state_dict().values(), now.state_dict().values(), strict=True):
                    mine.lerp_(its, 1 - keep)

    def tick(self):
        """Means since the last tick."""
        means = {k: round((total / count).item(), 4) for k, (total, count) in self.sums.items()}
        self.sums = {}
        return means | {"p": round(self.p, 4)}


def save_state(trainer, folder):
    with files.atomic(Path(folder) / "state.pt") as temporary:
        torch.save(trainer.state(), temporary)


@torch.no_grad()
def write_sheet(G, path, seed=0, count=64, psi=0.7):
    """64 samples of the generator, 8 a row."""
    z = torch.randn(count, G.config.z_dim, generator=torch.Generator().manual_seed(seed)).to(next(G.parameters()).device)
    samples = [x for chunk in z.split(16) for x in images.to_uint8(G(chunk, psi))]
    images.save(path, images.sheet([samples[i : i + 8] for i in range(0, count, 8)], gap=0))


def report(trainer, out, meta, seconds):
    """What a tick leaves behind."""
    save_state(trainer, out)
    write_sheet(trainer.ema, out / "sheet.png")
    generator_hash = checkpoints.save(out / "generator.safetensors", trainer.ema, half=True, **meta)
    if trainer.encoder:
        checkpoints.save(out / "encoder.safetensors", trainer.encoder_ema, half=True, generator_hash=generator_hash, **meta)
    checkpoints.save(
        out / "discriminator.safetensors", trainer.D, half=True, **{k: v for k, v in meta.items() if k in ("source", "license")}
    )
    line = {"images": trainer.shown, "seconds": round(seconds, 1), **trainer.tick(), "time": time.strftime("%Y-%m-%d %H:%M:%S")}
    with open(out / "log.jsonl", "a", encoding="utf-8") as f:
        f.write(json.dumps(line) + "\n")
    return line


def networks(args):
    """The networks to start with, and what their checkpoints say of themselves."""
    if args.init:
        G = checkpoints.load_generator(args.init)
        meta = {k: G.meta[k] for k in ("alignment", "perceptual", "source", "license") if G.meta.get(k)}
        D = checkpoints.load_discriminator(args.init_d) if args.init_d else Discriminator(G.config)
        if D.config.resolution != G.resolution:
            raise ValueError(f"--init_d {args.init_d}: looks at pictures of side {D.config.resolution}; the generator's is {G.resolution}")
        return G, D, meta
    size = NetworkConfig(args.kind, args.resolution, args.channel_base, args.channel_max, args.mapping_layers)
    return Generator(size), Discriminator(dataclasses.replace(size, channel_base=args.channel_base_d or args.channel_base)), {}


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("--data", required=True, help="folder, .zip or .tar of images; the middle square of each is taken")
    p.add_argument("--out", default="runs/generator")
    p.add_argument("--init", metavar="CHECKPOINT", help="generator to go on from (fine-tuning)")
    p.add_argument("--init_d", metavar="CHECKPOINT", help="its discriminator (default: a new one)")
    p.add_argument("--init_encoder", metavar="CHECKPOINT", help="its encoder, for --reconstruct (default: a new one)")
    p.add_argument("--fit_mapping", type=float, metavar="SPREAD",
                   help="first fit the mapping network to where --init_encoder puts photographs, spread so often (1.4: good)")  # fmt: skip
    p.add_argument("--kind", default="stylegan2", choices=("stylegan1", "stylegan2"), help="of a new generator")
    p.add_argument("--resolution", type=int, default=128)
    p.add_argument("--channel_base", type=int, default=2048)
    p.add_argument("--channel_base_d", type=int, help="of the discriminator (default: the same)")
    p.add_argument("--channel_max", type=int, default=256)
    p.add_argument("--mapping_layers", type=int, default=4)
    p.add_argument("--hold_out", action="store_true", help="keep every tenth image out, for training/measure.py")
    p.add_argument("--no_flip", action="store_true")
    p.add_argument("--alignment", help='of the images, as JSON: {"scale": 1.0, "em_scale": 0.1}')
    p.add_argument("--source", help="what the checkpoint says of its training")
    p.add_argument("--license", help="what the checkpoint says of its licence")
    p.add_argument("--compile", action="store_true", help="torch.compile the synthesis network and the discriminator (GPU)")
    for field in dataclasses.fields(Config):
        if field.name != "seed":
            choices = {"choices": ("none", "diff", "ada")} if field.name == "augment" else {}
            p.add_argument(f"--{field.name}", type=type(field.default), default=field.default, help="(default: %(default)s)", **choices)
    cli.add_run_flags(p)
    return p


def start_processes(args):
    """(rank, number of processes, device): one, or what torchrun says."""
    ranks, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = session.device(args.device)
    if ranks > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
    return rank, ranks, device


def main(argv):
    args = flags().parse_args(argv)
    config = Config(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Config)})
    rank, ranks, device = start_processes(args)
    torch.manual_seed(config.seed)
    G, D, meta = networks(args)
    given = {"alignment": json.loads(args.alignment) if args.alignment else None, "source": args.source, "license": args.license}
    meta |= {k: v for k, v in given.items() if v}
    encoder = checkpoints.load_encoder(args.init_encoder, G) if args.init_encoder else None
    names, images = data.load(args.data, G.resolution)
    indices, _ = data.split(len(images), args.hold_out)
    out = Path(args.out)
    if args.fit_mapping and not (out / "state.pt").is_file():
        if encoder is None:
            raise ValueError("--fit_mapping needs --init_encoder, whose latents it is fitted to")
        left = reconstruct.fit_mapping(
            G.to(device), encoder.to(device), images[indices[torch.randperm(len(indices))[:4000]]], args.fit_mapping
        )
        if rank == 0 and not args.quiet:
            print(f"mapping network fitted to the encoder's latents; unexplained variance {left:.3f}")
    trainer = Trainer(G, D, config, device, session.dtype(args.precision, device), ranks, encoder, trained=bool(args.init))
    if args.compile:
        G.synthesis.compile()
        D.compile()
    if (out / "state.pt").is_file():
        trainer.load_state(torch.load(out / "state.pt", weights_only=True, map_location=device))
        if not args.quiet:
            print(f"going on from {out / 'state.pt'}, {trainer.shown} images")
    torch.manual_seed(config.seed + trainer.step_count * 1000 + rank)
    order = torch.Generator().manual_seed(config.seed + trainer.step_count * 1000 + rank)
    source = data.batches(images, indices, config.batch // ranks, order, not args.no_flip, device)
    began, next_tick = time.time(), trainer.shown + config.tick
    while trainer.shown < config.images:
        trainer.step(next(source))
        if trainer.shown >= next_tick or trainer.shown >= config.images:
            if rank == 0:
                line = report(trainer, out, meta, time.time() - began)
                if not args.quiet:
                    print(json.dumps(line), flush=True)
            began, next_tick = time.time(), trainer.shown + config.tick
    if ranks > 1:
        torch.distributed.barrier()  # the others wait for what rank 0 writes
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    cli.run(main)
