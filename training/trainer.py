"""One training of a StyleGAN: the networks, their optimisers, and the step that shows them a batch of real images.

Non-saturating loss, lazy R1 (StyleGAN2, Karras et al. 2020), EMA, style mixing; adaptive augmentation (training/augment.py);
optionally path-length regularisation, projected heads beside the discriminator (training/projected.py), and an encoder
whose reconstructions of real images train the generator, too (training/reconstruct.py).
"""

import copy
import dataclasses
import math

import torch
import torch.nn.functional as F

from editor import checkpoints
from stylegan_layers import Generator
from training import augment, processes, projected, reconstruct, resume


def log_sigmoid_loss(scores, real):
    """Non-saturating GAN loss: softplus(-score) where `real` is to be believed, else softplus(score)."""
    return F.softplus(-scores if real else scores).mean()


def sample_ws(G, count, mixing, device):
    """Latents of random z, and their mean.

    Args:
        mixing: probability that all layers from a random one on come from a second z.

    Returns:
        (ws [count, L, w_dim], mean w [w_dim] without gradient)
    """
    w = G.mapping(torch.randn(2 * count, G.config.z_dim, device=device))  # [2 count, w_dim]
    first, second = w[:count, None], w[count:, None]
    cut = torch.where(torch.rand(count, 1, 1, device=device) < mixing, torch.randint(1, G.num_ws, (count, 1, 1), device=device), G.num_ws)
    return torch.where(torch.arange(G.num_ws, device=device).view(1, -1, 1) < cut, first, second), w.detach().mean(0)


@dataclasses.dataclass
class Made:
    """What the generator's step leaves for the others' steps."""

    fake: torch.Tensor  # [N, 3, R, R]
    w_mean: torch.Tensor  # [w_dim], of random z
    features: list | None = None  # what the heads look at, of part of the fakes
    mapped: torch.Tensor | None = None  # [N/2, w_dim], w of the mapping network
    encoded: torch.Tensor | None = None  # [N/2, w_dim], w of the encoder, one layer of each image


class Trainer:
    """The networks, their optimisers and the step. `state()` holds all that a resumed run needs.

    Args:
        G, D: Generator and Discriminator of one resolution; they are trained in place.
        config: a Config.
        dtype: of the convolutions; weights, losses and optimisers stay float32.
        ranks: processes of torch.distributed that train together, each with its share of every batch; `begin_together` comes first,
            and all of them call `step` and `tick` alike.
        rank: which of them this is.
        encoder: of G, for config.reconstruct (default: a new one).
        trained: G is worth averaging from the first step on.

    Raises:
        ValueError: config.freeze_d leaves no block of D to train; the processes cannot share a batch.
    """

    def __init__(self, G, D, config, device="cpu", dtype=torch.float32, ranks=1, encoder=None, trained=False, rank=0):
        config.share(ranks)
        self.rank = rank
        self.G, self.D, self.config, self.device, self.dtype, self.ranks = G.to(device), D.to(device), config, device, dtype, ranks
        self.trained = trained
        self.ema = Generator(G.config).to(device).eval().requires_grad_(False)
        self.ema.load_state_dict(G.state_dict())
        self.G.train().requires_grad_(True)
        self.D.train().requires_grad_(True)
        blocks = list(reversed(D.config.resolutions))
        if config.freeze_d >= len(blocks):
            raise ValueError(f"--freeze_d {config.freeze_d}: the discriminator has {len(blocks)} blocks, and one must be left to train")
        for r in blocks[: config.freeze_d]:
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
        self.sums, self.run = {}, {}  # the latter: what `resume.require_same` compares

    NETWORKS = ("G", "D", "ema", "heads", "encoder", "encoder_ema", "critic")
    PARTS = (*NETWORKS, "opt_g", "opt_d", "opt_h", "opt_c")

    def _add_encoder(self, encoder):
        c = self.config
        self.encoder, self.encoder_ema = encoder.to(self.device), copy.deepcopy(encoder).to(self.device).requires_grad_(False)
        self.encoder.requires_grad_(True).features.requires_grad_(False)
        for group in reconstruct.weight_groups(self.encoder, c.encoder_lr):
            self.opt_g.add_param_group(group | {"scale": group["scale"] * c.encoder_lr / c.lr})
        self.critic = reconstruct.Critic(self.G.config.w_dim).to(self.device).measure(self.G)
        self.opt_c = torch.optim.Adam(self.critic.parameters(), lr=0.001, betas=(0.0, 0.99))

    # -----------------------------------------------------------------------------------------------------------------
    # State

    def state(self):
        """{part: its state dict} and the counters; for `load_state` of a Trainer made with the same networks and settings.

        What is drawn at random needs no place in it: each step's seed is made of the run's and its own number.
        """
        state = {name: getattr(self, name).state_dict() for name in self.PARTS if getattr(self, name) is not None}
        counters = {"step": self.step_count, "p": self.p, "path_mean": self.path_mean, "batch": self.config.batch}
        return state | counters | {"run": self.run}

    def load_state(self, state):
        """Go on from what `state` gave.

        Raises:
            ValueError: a run with other parts, or another batch, whose steps would count for another number of images; or one that
                was not begun with what `run` says.
            KeyError, RuntimeError: not a state, or another network's.
        """
        for flag, part in (("heads", "heads"), ("reconstruct", "encoder")):
            if (getattr(self, part) is not None) != (part in state):
                raise ValueError(f"it was started {'with' if part in state else 'without'} --{flag}")
        if state.get("batch", self.config.batch) != self.config.batch:  # states of older versions do not say it
            raise ValueError(f"it was started with --batch {state['batch']}, not {self.config.batch}")
        for name in self.PARTS:
            if getattr(self, name) is not None:
                getattr(self, name).load_state_dict(state[name])
        resume.require_same(state, self.run)  # after the networks: where those have other sizes, that is the better word
        self.run = state.get("run", {})  # of older versions: stays without, since its --init may be what it has replaced since
        self.step_count, self.p, self.path_mean = state["step"], state["p"], state["path_mean"]

    def begin_together(self):
        """Take the weights, buffers and averages of process 0, before the first step; all processes call it.

        Raises:
            ValueError: the processes go on from different states; in each of them.
        """
        steps = torch.zeros(self.ranks, device=self.device, dtype=torch.long)
        steps[self.rank] = self.step_count
        shown = [n * self.config.batch for n in processes.total(steps, self.ranks).tolist()]
        if len(set(shown)) > 1:
            raise ValueError(f"the processes go on after different numbers of images ({', '.join(map(str, shown[:8]))}): "
                             "give an --out that all of them see, with one state.pt")  # fmt: skip
        for name in self.NETWORKS:
            if getattr(self, name) is not None:
                processes.take_from_first(getattr(self, name).state_dict().values(), self.ranks)
        scales = torch.tensor([group.get("scale", 1.0) for group in self.opt_g.param_groups], device=self.device)
        processes.take_from_first([scales], self.ranks)  # of the encoder's weights as process 0 began with them
        for group, scale in zip(self.opt_g.param_groups, scales.tolist(), strict=True):
            group["scale"] = scale

    @property
    def shown(self):
        """Images shown so far, by all processes and runs together."""
        return self.step_count * self.config.batch

    def note(self, **values):
        """Add scalars to the means of `tick`."""
        for k, v in values.items():
            total, count = self.sums.get(k, (0.0, 0))
            self.sums[k] = (total + v.detach(), count + 1)

    def mean(self, *names):
        """Means of noted scalars since the last tick, over all processes: list of floats."""
        sums = torch.stack([self.sums[name][0].float() for name in names])
        counts = torch.tensor([self.sums[name][1] for name in names], device=sums.device)
        sums, counts = processes.total(torch.stack([sums, counts]), self.ranks)
        return (sums / counts).tolist()

    def tick(self):
        """{name: mean since the last tick over all processes, rounded; None where it is not finite}"""
        means = dict(zip(self.sums, self.mean(*self.sums), strict=True)) if self.sums else {}
        self.sums = {}
        return {k: round(v, 4) if math.isfinite(v) else None for k, v in means.items()} | {"p": round(self.p, 4)}

    # -----------------------------------------------------------------------------------------------------------------
    # The step

    def step(self, real):
        """One step of each network on a batch of real images [N, 3, R, R] in [-1, 1]; N is this process's share."""
        c, rate = self.config, self.rate(len(real))
        torch.manual_seed(resume.seed(c.seed, self.step_count, self.rank))
        made = self._generator_step(real, rate)
        if made.encoded is not None:
            self._critic_step(made.mapped, made.encoded)
        if c.path_length and self.step_count % 8 == 0:
            self._path_length(len(real), rate)
        self._discriminator_step(made.fake, real, rate)
        if self.heads:
            self._heads_step(made.features, real, rate / c.lr * c.heads_lr)
        self._average(made.w_mean, len(real))
        self.step_count += 1

    def rate(self, n):
        """The learning rate of a step with n images a process: risen over the first `warm` images, fallen over the last `fall` of all."""
        c, t = self.config, min(1.0, self.shown / self.config.images)
        return c.lr * (max(0.1, min(1.0, (1 - t) / c.fall)) if c.fall else 1.0) * min(1.0, (self.shown + n * self.ranks) / max(1, c.warm))

    def _step(self, optimiser, loss, parameters, rate):
        """One Adam step; gradients are averaged over the processes, and NaN counts as 0."""
        parameters = [p for p in parameters if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = None if g is None else torch.nan_to_num(g, nan=0.0, posinf=1e5, neginf=-1e5)
        processes.average([p.grad for p in parameters if p.grad is not None], self.ranks)
        for group in optimiser.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        optimiser.step()

    def _scores(self, images):
        """The discriminator's scores [N, 1] of images [N, 3, R, R], with augmentation where it is on."""
        if self.config.augment != "none" and self.p > 0:
            images = augment.augment(images, self.p)
        return self.D(images.to(self.dtype))

    def _both_scores(self, fake, real):
        """Scores [N] of fakes and of real images, both [N, 3, R, R], each kind as if it were looked at alone.

        One pass with fakes on even places, where minibatch_stddev then makes the same groups of each kind: its groups of 2N images must be
        as large as those of N. Else a pass each: a group of both kinds would tell the discriminator, and the generator, wrong deviations.
        """
        n = len(real)
        if n % 4 == 0 or n % 6 == 3:  # groups of 4, or of 3
            return self._scores(torch.stack([fake, real], 1).flatten(0, 1)).view(n, 2).unbind(1)
        return self._scores(fake)[:, 0], self._scores(real)[:, 0]

    def _head_features(self, images):
        """What the heads look at: features of part of the batch, always augmented."""
        part = images[: max(2, int(len(images) * self.config.heads_share))]
        return self.vision.features(augment.augment(part))

    def _generator_step(self, real, rate):
        """One step of the generator, and of the encoder where there is one: half of the fakes are then reconstructions."""
        c, n = self.config, len(real)
        self.D.requires_grad_(False)
        half = n // 2 if self.encoder else 0
        ws, w_mean = sample_ws(self.G, n - half, c.mixing, self.device)  # [N, L, w_dim]
        if half:
            mapped, encoded_ws = ws[:, 0], reconstruct.mostly_in_w(self.encoder(real[:half]))
            ws = torch.cat([ws, encoded_ws])
        fake = self.G.synthesis(ws, noise="random", dtype=self.dtype)  # [N, 3, R, R]
        made = Made(fake.detach(), w_mean)
        loss = log_sigmoid_loss(self._scores(fake), real=True)
        self.note(loss_g=loss)
        if half:
            encoded = reconstruct.one_layer(encoded_ws)
            loss = loss + self._reconstruction_loss(fake[-half:], real[:half], encoded_ws, mapped, encoded)
            made.mapped, made.encoded = mapped.detach(), encoded.detach()
        if self.heads:
            self.heads.requires_grad_(False)
            features = self._head_features(fake)
            loss_h = log_sigmoid_loss(self.heads(features), real=True)
            self.note(loss_g_heads=loss_h)
            loss = loss + c.heads * min(1.0, self.shown / max(1, c.ramp)) * loss_h
            made.features = [f.detach() for f in features]
        self._step(self.opt_g, loss, [p for group in self.opt_g.param_groups for p in group["params"]], rate)
        return made

    def _reconstruction_loss(self, fake, real, encoded_ws, mapped, encoded):
        """What generator and encoder want of the reconstructions `fake` of `real` [N/2, 3, R, R]: like them, and from W."""
        c, half = self.config, len(real)
        unlike = reconstruct.loss_of(fake, real, encoded_ws, self.vision)
        self.critic.requires_grad_(False)
        squares = (fake - real).square().flatten(1).mean(1)
        in_w = torch.arange(half) % 4 != 0
        self.note(loss_alike=unlike, mse=squares[~in_w].mean(), w_spread=(encoded - self.G.w_avg).norm(dim=1).mean())
        if in_w.any():
            self.note(mse_w=squares[in_w].mean())
        return c.reconstruct * unlike + c.critic * reconstruct.loss_against_critic(self.critic, mapped, encoded)

    def _critic_step(self, mapped, encoded):
        """The critic learns to tell w [N/2, w_dim] of the mapping network from the encoder's."""
        self.critic.requires_grad_(True)
        loss = reconstruct.critic_loss(self.critic, mapped, encoded)
        self.note(loss_critic=loss)
        self._step(self.opt_c, loss, self.critic.parameters(), 0.001)

    def _discriminator_step(self, fake, real, rate):
        """One step on fakes and real images, both [N, 3, R, R]; every `r1_every` steps one of R1; then ADA's look at the scores."""
        c, n = self.config, len(real)
        for p in self.d_weights:
            p.requires_grad_(True)
        fakes, reals = self._both_scores(fake, real)
        loss = log_sigmoid_loss(fakes, real=False) + log_sigmoid_loss(reals, real=True)
        self.note(loss_d=loss, score_fake=fakes.mean(), score_real=reals.mean(), sign_real=reals.sign().mean())
        self._step(self.opt_d, loss, self.d_weights, rate)
        if self.step_count % c.r1_every == 0:
            x = real.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self._scores(x).sum(), x, create_graph=True)
            r1 = gradient.float().square().sum((1, 2, 3)).mean()
            self.note(r1=r1)
            self._step(self.opt_d, r1 * (c.gamma / 2 * c.r1_every), self.d_weights, rate)
        if c.augment == "ada" and self.step_count % 4 == 3:
            (sign,) = self.mean("sign_real")
            self.p = min(1.0, max(0.0, self.p + math.copysign(4 * n * self.ranks / c.ada_images, sign - c.ada_target)))

    def _heads_step(self, fake_features, real, rate):
        """Hinge loss of the heads; the fakes' features are those of the generator's step."""
        self.heads.requires_grad_(True)
        for m in [*self.heads.mix, *self.heads.down]:
            m.requires_grad_(False)
        with torch.no_grad():
            real_features = self._head_features(real)
        loss = F.relu(1 + self.heads(fake_features)).mean() + F.relu(1 - self.heads(real_features)).mean()
        self.note(loss_heads=loss)
        self._step(self.opt_h, loss, self.heads.parameters(), rate)

    def _path_length(self, n, rate):
        """Steps in w should change the picture alike everywhere (StyleGAN2, equation 4), on half a batch."""
        ws, _ = sample_ws(self.G, max(1, n // 2), 0.0, self.device)
        image = self.G.synthesis(ws, noise="random", dtype=self.dtype)
        noise = torch.randn_like(image) / image[0, 0].numel() ** 0.5
        (gradient,) = torch.autograd.grad((image * noise).sum(), ws, create_graph=True)  # [N/2, L, w_dim]
        lengths = gradient.square().sum(2).mean(1).sqrt()
        now = lengths.detach().mean()
        processes.average([now], self.ranks)
        mean = self.path_mean + 0.01 * (now.item() - self.path_mean)
        penalty = (lengths - mean).square().mean()
        self.path_mean = mean
        self.note(path=penalty)
        self._step(self.opt_g, penalty * self.config.path_length * 8, self.G.parameters(), rate)

    @torch.no_grad()
    def _average(self, w_mean, n):
        """Move the averaged weights, and the generator's mean latent, a little towards what the step made."""
        processes.average([w_mean], self.ranks)
        self.G.mapping.w_avg.lerp_(w_mean, 0.005)
        half_life = self.config.ema
        if not self.trained:  # the average forgets a new network's first images
            half_life = min(half_life, max(1.0, 0.05 * self.shown) + n * self.ranks)
        keep = 0.5 ** (n * self.ranks / half_life)
        for average, network in ((self.ema, self.G), (self.encoder_ema, self.encoder)):
            if network is not None:
                for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                    mean.lerp_(value, 1 - keep)
