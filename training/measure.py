"""Measure a generator against held-out faces, without any download.

    python -m training.measure --data faces.zip --generator weight_files/faces128.safetensors --inversion 100 --out measures.json

Distances of samples (psi 1) to the held-out tenth of the data, everything brought to 64x64 first: Frechet and kernel distance,
precision and recall (Kynkaanniemi et al. 2019, k = 3), in the attribute network's hidden layer and, as a second
opinion that no training here has seen, in dlib's face descriptor. `real` is the training set's own value. Then how near
samples come to training images (memorised?), and PSNR, SSIM, distance and identity of embedded held-out faces.
"""

import dataclasses
import http.client
import json
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from editor import checkpoints, classes, cli, files, images, landmarks, projection, render, session, settings
from training import data
from training.config import add_device_flag, add_flags, check, from_flags, setting

# off line, a server that breaks off or sends something else, another file in torch.hub's cache
BROKEN = (OSError, RuntimeError, EOFError, ValueError, http.client.HTTPException, pickle.UnpicklingError)


def brought_to(images, size):
    """[N, 3, R, R] -> [N, 3, size, size], averaged or interpolated."""
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def at_64(pictures, indices):
    """Images of uint8 [N, 3, R, R], as `data.load` gives them: float [n, 3, 64, 64] in [-1, 1]; some at a time, since R may be 1024."""
    return torch.cat([brought_to(pictures[i].float() / 127.5 - 1, 64) for i in indices.split(64)])


def frechet(a, b):
    """Frechet distance of two feature sets [N, D] taken for Gaussian (Heusel et al. 2017)."""
    from scipy import linalg

    (m1, c1), (m2, c2) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
    eigenvalues = linalg.eigvals(c1 @ c2)  # the trace of the square root of C1 C2
    return float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * np.sqrt(eigenvalues.astype(complex)).real.sum())


def kernel_distance(a, b):
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3 (KID, Binkowski et al. 2018)."""

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    aa, bb, ab, n, m = kernel(a, a), kernel(b, b), kernel(a, b), len(a), len(b)
    return float((aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1)) - 2 * ab.mean())


def precision_recall(real, fake, k=3):
    """Share of samples within the k-th neighbour's radius of a real face, and the other way round."""

    def covered(points, centres):
        radius = torch.cdist(centres, centres).kthvalue(k + 1, dim=1).values
        return (torch.cdist(points, centres) <= radius).any(1).float().mean().item()

    real, fake = torch.from_numpy(real), torch.from_numpy(fake)
    return covered(fake, real), covered(real, fake)


class Inception:
    """torchvision's Inception v3 before its last layer, on `device`: [N, 3, H, W] in [-1, 1] -> [N, 2048], float64.

    Raises:
        OSError: the weights could not be downloaded, or are not the published ones (the hash in their name).
    """

    def __init__(self, device="cpu"):
        from torchvision.models import Inception_V3_Weights, inception_v3

        try:
            state = Inception_V3_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except BROKEN as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise OSError(f"--fid: Inception v3 could not be downloaded, or what lies in {torch.hub.get_dir()} is not it "
                          f"({reason}); leave --fid out, or remove it there") from None  # fmt: skip
        self.network = inception_v3(weights=None, transform_input=True, init_weights=False)
        self.network.load_state_dict(state)
        self.network.fc = torch.nn.Identity()
        self.network.eval().to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, images):
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        images = images.to(self.device)
        prepared = (((brought_to(x, 299) + 1) / 2 - mean) / std for x in images.split(32))  # transform_input undoes the normalisation
        return torch.cat([self.network(x) for x in prepared]).cpu().double().numpy()


def embed(network, images):
    """[N, 3, 64, 64] -> attribute features [N, D], float64."""
    device = network.fc1.weight.device
    parts = [network.embed(brought_to(x.to(device), network.config.resolution)) for x in images.split(64)]
    return torch.cat(parts).cpu().double().numpy()


def samples(G, count, seed=1):
    """Pictures of `count` random z at psi 1: [count, 3, 64, 64], on the CPU."""
    z = torch.randn(count, G.config.z_dim, generator=torch.Generator().manual_seed(seed)).to(G.w_avg.device)
    images = [G(chunk).clamp(-1, 1) for chunk in z.split(32)]
    return torch.cat([brought_to(x, 64).cpu() for x in images])


def distances(a, b):
    """The table's row for features of real faces `a` and samples `b`."""
    precision, recall = precision_recall(a, b)
    return {"frechet": frechet(a, b), "kernel": kernel_distance(a, b), "precision": precision, "recall": recall}


@torch.no_grad()
def distribution(G, real, known, count, fid=False):
    """Distances of samples to held-out faces, in two or three feature spaces, and nearest training neighbours.

    Args:
        real, known: held-out and training faces, [N, 3, 64, 64] in [-1, 1].
    """
    network, descriptors = checkpoints.load_attributes().to(G.w_avg.device), landmarks.Descriptors()
    fake = samples(G, count)
    f_real, f_fake, f_known = embed(network, real), embed(network, fake), embed(network, known)
    table = {"attributes": {"samples": distances(f_real, f_fake), "real": distances(f_real, f_known[: len(f_fake)])}}
    if fid:
        inception = Inception(G.w_avg.device)
        i_real, i_fake, i_known = (inception(x) for x in (real, fake, known[: len(fake)]))
        table["inception"] = {"samples": distances(i_real, i_fake), "real": distances(i_real, i_known)}
    few = min(600, count)
    d = [np.stack([descriptors(p) for p in images.to_uint8(x[:few])]) for x in (real, fake, known)]
    table["dlib"] = {"samples": distances(d[0], d[1]), "real": distances(d[0], d[2])}
    nearest = [np.linalg.norm(x[:, None] - d[2][None], axis=2).min(1) for x in (d[0], d[1])]
    table["nearest training face, dlib"] = {
        name: {"median": float(np.median(x)), "smallest": float(x.min())} for name, x in zip(("held out", "samples"), nearest, strict=True)
    }
    return table


def inversion(G, distance, targets, steps, callback=None, encoder=None, **options):
    """Embed faces and measure how near their renderings are.

    Args:
        targets: [N, 3, R, R] in [-1, 1], on G's device. steps: of the optimiser. options: of settings.Config.
        callback: called with the number of faces done.
        encoder: its guess is the start (default: what `options` say).

    Returns:
        ({measure: median}, [(face, rendering)], both uint8 [R, R, 3])
    """
    descriptors, rows, pairs = landmarks.Descriptors(), [], []
    for chunk in targets.split(10):
        if encoder:
            with torch.no_grad():
                options["init"] = encoder(chunk)
        found = projection.project(G, distance, chunk, settings.Config(iteration=steps, **options))
        with torch.no_grad():
            pictures = G.synthesis(found.ws.to(chunk.device))
            apart = distance(pictures, chunk)
        for i, (mine, wanted) in enumerate(zip(images.to_uint8(pictures), images.to_uint8(chunk), strict=True)):
            psnr, ssim = render.measures(mine, wanted, np.ones(mine.shape[:2], bool))
            rows.append((psnr, ssim, float(apart[i]), float(np.linalg.norm(descriptors(mine, wanted) - descriptors(wanted)))))
            pairs.append((wanted, mine))
        if callback:
            callback(len(rows))
    values = np.array(rows)
    keys = ("psnr", "ssim", "distance", "identity")
    row = dict(zip(keys, np.median(values, axis=0).round(4).tolist(), strict=True))
    return row | {
        "identity p95": round(float(np.quantile(values[:, 3], 0.95)), 4),
        "same person (< 0.6)": float((values[:, 3] < 0.6).mean()),
    }, pairs


@dataclasses.dataclass
class Config:
    """What is measured, on how much."""

    count: int = setting(1300, "samples, and held-out faces that they are compared with; 0: none", least=0)
    skip: int = setting(
        0, "held-out faces that are passed over first: for a last word on some that no choice of a generator has seen", least=0
    )
    inversion: int = setting(0, "held-out faces to embed; 0: none", least=0)
    steps: list = setting([50, 200, 500], "steps of the embeddings, each in a run of its own", least=0)

    def __post_init__(self):
        check(self)
        if 0 < self.count < 10:
            raise ValueError(f"--count {self.count}: expected 0, or 10 and more")


def read_starts(words):
    """--starts -> [(name, space, init)].

    Raises:
        ValueError: one that is no space and init.
    """
    found, inits = [], (*settings.INITS, "encoder")
    for name in words:
        space, _, init = name.partition(" ")
        if space not in settings.SPACES or init not in inits:
            raise ValueError(f'--starts "{name}": expected a space ({", ".join(settings.SPACES)}) and an init ({", ".join(inits)})')
        found.append((name, space, init))
    return found


def flags():
    parser = cli.Parser(__doc__)
    parser.add_argument("--data", required=True, help="the training pictures, as given to train_generator")
    parser.add_argument("--generator", metavar="FILE", help="(default: the bundled one)")
    parser.add_argument("--fid", action="store_true", help="Frechet distance in Inception's features, too (downloads it)")
    parser.add_argument("--starts", nargs="+", default=["w mean", "w+ mean"], help='space and init of the embeddings, such as "w mean" '
                        '"w+ mean" "w+ encoder" (default: the first two)')  # fmt: skip
    parser.add_argument(
        "--encoder", metavar="FILE", default=checkpoints.BUNDLED["encoder"], help="of the generator (default: the bundled one)"
    )
    parser.add_argument("--out", default="runs/measures.json", help="the measures; NAME.png beside it shows embedded faces "
                        "(default: %(default)s)")  # fmt: skip
    add_flags(parser, Config)
    add_device_flag(parser)
    return parser


def check_out(path, sheet):
    """See that --out, and NAME.png beside it where there will be a `sheet`, may and can be written, before the work.

    Raises:
        ValueError: its name does not end in .json, or one of both is there and is something else.
        OSError: nothing can be written there.
    """
    path, other = Path(path), "choose another --out"
    if path.suffix != ".json":
        raise ValueError(f"--out {path}: measures are JSON; give a name that ends in .json")
    files.check_writable(path)
    said = files.read_json(path, f"not the measures of a generator; {other}") if path.exists() else {}
    if path.exists() and not (isinstance(said, dict) and {"generator", "hash", "seconds"} <= said.keys()):
        raise ValueError(f"{path}: exists and holds something else than the measures of a generator; {other}")
    if sheet and path.with_suffix(".png").exists() and "inversion" not in said:  # which is written before the picture
        raise ValueError(f"{path.with_suffix('.png')}: exists, and no {path.name} beside it says what it is; move it away, or {other}")


def main(argv):
    args = flags().parse_args(argv)
    config, starts, device = from_flags(Config, args), read_starts(args.starts), session.device(args.device)
    G = checkpoints.load_generator(args.generator, device)
    classes.refuse(G)
    check_out(args.out, bool(config.inversion))
    distance, encoder = embedders(G, starts, args.encoder) if config.inversion else (None, None)  # before the hours that samples take
    _, pixels = data.read(args.data, max(G.resolution, 64))
    train, held = data.split(len(pixels))
    held = held[config.skip :]
    if len(held) < 10:
        raise ValueError(f"{args.data}: {len(pixels)} pictures, of which {len(held)} are held out and not skipped; 10 are needed")
    print(f"{len(held)} held-out pictures of {args.data}, {len(train)} others", file=sys.stderr, flush=True)
    began = time.time()
    table, pairs = {"generator": str(G.meta["path"]), "hash": G.meta["hash"]}, []
    if config.count:
        real, known = at_64(pixels, held[: config.count]), at_64(pixels, train[: max(config.count, 2000)])
        table |= distribution(G, real, known, config.count, args.fid)
        print(json.dumps(table, indent=1), flush=True)
    if config.inversion:
        chosen = held[torch.linspace(0, len(held) - 1, min(config.inversion, len(held))).long()]
        targets = pixels[chosen].to(device).float() / 127.5 - 1
        table["inversion"], pairs = inversions(G, targets, starts, config.steps, distance, encoder)
    with files.atomic(args.out) as temporary:
        temporary.write_text(json.dumps(table | {"seconds": round(time.time() - began)}, indent=1), encoding="utf-8")
    print(args.out)
    if pairs:
        sheet = Path(args.out).with_suffix(".png")
        rows = [[p for pair in pairs[i : i + 4] for p in pair] for i in range(0, min(32, len(pairs)), 4)]
        images.save(sheet, images.sheet(rows, gap=0))
        print(sheet)


def embedders(G, starts, encoder_path):
    """(distance of the embeddings, the generator's encoder where one of `starts` asks for it)."""
    distance = session.load_distance(G.meta["perceptual"] or "vgg16", device=G.w_avg.device)
    asked = any(init == "encoder" for _, _, init in starts)
    return distance, checkpoints.load_encoder(encoder_path, G, G.w_avg.device) if asked else None


def inversions(G, targets, starts, steps, distance, encoder):
    """`inversion` from each start and with each number of steps: {what: row}, and the last one's pictures. Prints rows as they come."""
    table = {}
    for name, space, init in starts:
        start = {"encoder": encoder} if init == "encoder" else {"init": init}
        for count in steps:
            row, pairs = inversion(G, distance, targets, count, space=space, **start)
            table[f"{name}, {count} steps"] = row
            print(name, count, json.dumps(row), flush=True)
    return table, pairs


if __name__ == "__main__":
    cli.run(main)
