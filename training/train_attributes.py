"""Train the attribute network: gender, age, yaw, smile and glasses of aligned face crops, and the features of the off line distance.

    python -m training.train_attributes --data fairface_aligned_128.zip --labels labels.csv --out weight_files/attributes.safetensors

The labels are a CSV with a row an image: file, age (FairFace's bins), gender (Male, Female), yaw, glasses_edge (edge strength over
the nose bridge: only the ranks at both ends are trusted) and happy (a probability; trusted near 0 and 1). Every tenth image is held
out and never trained on. --hand_labels
(file, attribute, value: 0 or 1) were given by eye: they teach on training images and measure on held-out ones, age as over 50.
Labels that stay doubtful are left to the network: from the middle of the training on it is taught what it said
of the same image before, where it was sure (temporal ensembling, Laine & Aila 2017), and a little of that in place of the others.

Stopped runs go on where they were: the state after each epoch lies in --state. One JSON line an epoch; a table at the end.
"""

import collections
import csv
import dataclasses
import hashlib
import json
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from editor import checkpoints, cli, session
from editor.networks import AttributeConfig, AttributeNet
from training import data, outputs, resume
from training.config import add_device_flag, add_flags, check, from_flags, setting

AGES = ["20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"]
BINARY = ("gender", "smile", "glasses")
GLASSES_SURE = (0.055, 0.37)  # shares of the data, by rank of glasses_edge: above the first they are worn, below the second not
SMILE_SURE = (0.95, 0.05)
LOSS_WEIGHTS = {"gender": 1.0, "age": 4.0, "yaw": 1.0, "smile": 1.0, "glasses": 1.0}
GLASSES_POSITIVE = 3.0  # weight of the rare positive label
SELF_SHARE, SELF_SURE = 0.3, 0.9  # of the network's own earlier opinion in a label; how sure it must be where there is none
SOURCE = "trained by training/train_attributes.py on FairFace (Karkkainen & Joo, WACV 2021), aligned crops 128x128"
LICENSE = "CC BY 4.0 (trained on FairFace, Karkkainen & Joo, WACV 2021, CC BY 4.0)"


@dataclasses.dataclass
class Faces:
    """pixels uint8 [N, 3, 128, 128]; names; targets: {attribute: [N] or [N, 5]}, NaN where the label is not trusted."""

    pixels: torch.Tensor
    names: list
    targets: dict

    @property
    def held_out(self):
        return torch.arange(len(self.names)) % 10 == 9


def read_faces(data_path, labels, side=128):
    """Read images and labels. Images that cannot be read are named, and their rows are left out.

    Raises:
        ValueError: a column or an image is missing, an image has two rows, or a label is unknown.
    """
    rows = read_table(labels, ("file", "age", "gender", "yaw", "glasses_edge", "happy"))
    counts = collections.Counter(r["file"] for r in rows)
    twice, times = counts.most_common(1)[0]
    if times > 1:  # one of them might be trained on and the other held out
        raise ValueError(f"{labels}: {times} rows of {twice}; leave one")
    bad = {str(r["age"]) for r in rows} - set(AGES) | {str(r["gender"]) for r in rows} - {"Male", "Female"}
    if bad:
        some = ", ".join(sorted(bad)[:5])
        raise ValueError(f"{labels}: unknown label {some}; ages are {', '.join(AGES)}; gender is Male or Female")
    failures = cli.Failures()
    names, pixels = data.read(data_path, side, failures=failures)
    before = str(Path(data_path, "_"))[:-1] if Path(data_path).is_dir() else f"{data_path}: "  # what `read` puts before a name

    def key(row):
        return (row["file"] or "").removeprefix(before)

    position = {name.removeprefix(before): i for i, name in enumerate(names)}
    unread = {name.removeprefix(before) for name in failures.names}
    missing = [r["file"] for r in rows if key(r) not in position and key(r) not in unread]
    if missing:
        raise ValueError(f"{data_path}: no image {missing[0]}, which {labels} names ({len(missing)} are missing)")
    rows = [r for r in rows if key(r) in position]
    order = [position[key(r)] for r in rows]
    pixels = pixels if order == list(range(len(names))) else pixels[order]  # 700 MB are not copied without need
    return Faces(pixels, [r["file"] for r in rows], read_targets(rows, labels))


def read_table(path, columns):
    """A CSV -> its rows, dicts of strings.

    Raises:
        ValueError: no CSV, no rows, or a column is missing.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:  # spreadsheets put a mark before the first column's name
            rows = list(csv.DictReader(f))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable CSV in UTF-8 ({error})") from None
    missing = set(columns) - set(rows[0] if rows else ())
    if missing:
        raise ValueError(f"{path}: no rows, or no column {', '.join(sorted(missing))}")
    return rows


def read_targets(rows, path):
    """Rows of the CSV `path` -> {attribute: float tensor}; probabilities for the binary ones, over-30, over-40, ... for age.

    Raises:
        ValueError: a number that is none.
    """

    def number(row, name):
        try:
            value = float(row[name] or "nan")
        except ValueError:
            raise ValueError(f"{path}: {row['file']}: {name} is {row[name][:40]!r}, not a number") from None
        if math.isinf(value):
            raise ValueError(f"{path}: {row['file']}: {name} is {row[name][:40]!r}; leave it empty where it is not known")
        return value

    column = {k: torch.tensor([number(r, k) for r in rows]) for k in ("yaw", "glasses_edge", "happy")}
    bins = torch.tensor([AGES.index(r["age"]) for r in rows])
    known = ~column["glasses_edge"].isnan()  # of those that are not, no rank is known; sorted, they would come first, as worn
    rank = torch.full(known.shape, math.nan)
    rank[known] = column["glasses_edge"][known].argsort(descending=True).argsort() / known.sum()
    return {
        "gender": torch.tensor([float(r["gender"] == "Male") for r in rows]),
        "age": (bins[:, None] > torch.arange(len(AGES) - 1)).float(),
        "yaw": column["yaw"],
        "smile": trusted(column["happy"] > SMILE_SURE[0], column["happy"] < SMILE_SURE[1]),
        "glasses": trusted(rank < GLASSES_SURE[0], rank > GLASSES_SURE[1]),
    }


def read_hand_labels(path, faces):
    """A CSV with columns file, attribute, value (0 or 1; age: 1 is over 50) -> [(index of the image, attribute, value)].

    Rows of images that are not among `faces` are left out.

    Raises:
        ValueError: a column is missing, a row says something else, or all rows are left out.
    """
    position, found = {name: i for i, name in enumerate(faces.names)}, []
    for row in read_table(path, ("file", "attribute", "value")):
        if row["attribute"] not in (*BINARY, "age") or row["value"] not in ("0", "1"):
            wanted = f"an attribute of {', '.join((*BINARY, 'age'))} and a value of 0 or 1"
            raise ValueError(f"{path}: {row['file']}: {row['attribute']}, {row['value']}: expected {wanted}")
        if row["file"] in position:
            found.append((position[row["file"]], row["attribute"], row["value"] == "1"))
    if not found:
        raise ValueError(f"{path}: names none of the {len(position)} labelled images; they are called like {faces.names[0]}")
    return found


def teach(faces, hand_labels):
    """Put hand labels of training images in the place of the doubtful ones; returns the indices of these images."""
    held_out, taught = faces.held_out, []
    for i, attribute, value in hand_labels:
        if attribute in BINARY and not held_out[i]:
            faces.targets[attribute][i] = float(value)
            taught.append(i)
    return torch.tensor(taught, dtype=torch.long)


def trusted(yes, no):
    """1 where yes, 0 where no, else NaN."""
    unknown = torch.full(yes.shape, math.nan)
    return torch.where(yes, torch.ones(()), torch.where(no, torch.zeros(()), unknown))


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation


def augment(pixels, flip, size, rng):
    """uint8 [N, 3, H, W] -> float [N, 3, size, size] in [-1, 1]: flipped where `flip`, moved, recoloured, degraded.

    A third of each batch loses its detail, as faces of a small generator have none: reduced to 24..80 pixels and enlarged.
    The pictures' device computes; `flip` and `rng` are the CPU's, so that each device sees the same.
    """
    device = pixels.device
    x = pixels.float() / 127.5 - 1
    if x.shape[-1] != size:
        x = F.interpolate(x, size=(size, size), mode="area")
    x = torch.where(flip.view(-1, 1, 1, 1).to(device), x.flip(3), x)
    n = len(x)

    def uniform(low, high):
        return (torch.rand(n, generator=rng) * (high - low) + low).to(device)

    angle, scale = uniform(-0.12, 0.12), uniform(0.88, 1.1)
    rotation = torch.stack([angle.cos() * scale, -angle.sin() * scale, angle.sin() * scale, angle.cos() * scale], 1).view(n, 2, 2)
    shift = torch.stack([uniform(-0.1, 0.1), uniform(-0.1, 0.1)], 1)[:, :, None]
    grid = F.affine_grid(torch.cat([rotation, shift], 2), x.shape, align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    coarse = int(torch.randint(24, 81, (), generator=rng)) * size // 128
    few = n // 3
    small = F.interpolate(x[:few], size=(coarse, coarse), mode="bilinear", antialias=True)
    x[:few] = F.interpolate(small, size=(size, size), mode="bilinear")
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * uniform(0.4, 1.3).view(-1, 1, 1, 1)
    x = x * uniform(0.75, 1.25).view(-1, 1, 1, 1) + uniform(-0.25, 0.25).view(-1, 1, 1, 1)
    x = x + torch.randn(x.shape, generator=rng).to(device) * uniform(0, 0.06).view(-1, 1, 1, 1)
    return x.clamp(-1, 1)


# ---------------------------------------------------------------------------------------------------------------------
# The network in training


class Trainee(nn.Module):
    """An AttributeNet with batch normalisation after each convolution and dropout before the last layer."""

    def __init__(self, config):
        super().__init__()
        self.net = AttributeNet(config)
        for name in self.net.layers:
            nn.init.kaiming_normal_(getattr(self.net, name).weight, nonlinearity="relu")
        self.norms = nn.ModuleDict({name: nn.BatchNorm2d(getattr(self.net, name).out_channels) for name in self.net.layers})

    def forward(self, x):
        """[N, 3, 64 or 128, ...] -> {attribute: [N, k]}; at 64 the last pooling is left out."""
        for name in self.net.layers:
            if name.endswith("_1") and name != "conv1_1":
                x = F.max_pool2d(x, 2)
            x = F.relu(self.norms[name](getattr(self.net, name)(x)))
        side = self.net.config.resolution >> len(self.net.config.channels)
        hidden = F.relu(self.net.fc1(F.adaptive_max_pool2d(x, side).flatten(1)))
        raw = self.net.fc2(F.dropout(hidden, 0.3, self.training))
        return dict(zip(self.net.OUTPUTS, raw.split(list(self.net.OUTPUTS.values()), dim=1), strict=True))

    @torch.no_grad()
    def folded(self):
        """The AttributeNet that computes the same without batch normalisation."""
        net = AttributeNet(self.net.config).to(self.net.fc1.weight.device)
        net.load_state_dict(self.net.state_dict())
        for name, norm in self.norms.items():
            conv, gain = getattr(net, name), norm.weight / (norm.running_var + norm.eps).sqrt()
            conv.weight.mul_(gain[:, None, None, None])
            conv.bias.copy_((conv.bias - norm.running_mean) * gain + norm.bias)
        return net.eval()


def loss_of(raw, target):
    """Sum of the attributes' losses; NaN targets count nothing. Huber for yaw: its landmarks are wrong at times."""
    yaw = F.smooth_l1_loss(4 * raw["yaw"][:, 0], 4 * target["yaw"].nan_to_num(), reduction="none")
    total = LOSS_WEIGHTS["yaw"] * (yaw * ~target["yaw"].isnan()).mean()
    total = total + LOSS_WEIGHTS["age"] * F.binary_cross_entropy_with_logits(raw["age"], target["age"])
    for name in BINARY:
        known, wanted = ~target[name].isnan(), target[name].nan_to_num()
        weight = known * (1 + (GLASSES_POSITIVE - 1) * wanted if name == "glasses" else 1.0)
        loss = F.binary_cross_entropy_with_logits(raw[name][:, 0], wanted, weight, reduction="sum")
        total = total + LOSS_WEIGHTS[name] * loss / known.sum().clamp(min=1)
    return total


class Opinions:
    """What the network said of each training image in earlier epochs: a running mean of its probabilities."""

    def __init__(self, count):
        self.mean = {name: torch.full((count,), math.nan) for name in BINARY}

    def load(self, mean):
        """Take the means of a run on the same images."""
        if {k: v.shape for k, v in mean.items()} != {k: v.shape for k, v in self.mean.items()}:
            raise ValueError("it is of other images")
        self.mean = mean

    def update(self, indices, raw):
        for name in BINARY:
            now, before = raw[name][:, 0].detach().sigmoid().cpu(), self.mean[name][indices]
            self.mean[name][indices] = torch.where(before.isnan(), now, 0.6 * before + 0.4 * now)

    def correct(self, target, indices):
        """Targets in which unknown labels are filled in where the network was sure, and known ones moved towards its opinion."""
        target = dict(target)
        for name in BINARY:
            label, opinion = target[name], self.mean[name][indices]
            sure = (opinion > SELF_SURE) | (opinion < 1 - SELF_SURE)
            filled = torch.where(sure, opinion, math.nan)
            moved = torch.where(opinion.isnan(), label, (1 - SELF_SHARE) * label + SELF_SHARE * opinion)
            target[name] = torch.where(label.isnan(), filled, moved)
        return target


# ---------------------------------------------------------------------------------------------------------------------
# Training


def train(faces, taught, options, state_path, report, device="cpu"):
    """Train, from the state where there is one; calls report(dict) after each epoch. Returns the folded network.

    Args:
        taught: indices of images with hand labels, which are doubtful cases: shown three times an epoch.
        options: a Config.

    Raises:
        ValueError: the state is another run's, or none.
    """
    torch.manual_seed(options.seed)
    trainee = Trainee(AttributeConfig()).to(device, memory_format=torch.channels_last)
    indices = torch.arange(len(faces.names))[~faces.held_out]
    indices = torch.cat([indices, taught, taught])
    opinions, optimizer = Opinions(len(faces.names)), torch.optim.AdamW(trainee.parameters(), lr=1e-3, weight_decay=0.02)
    names = hashlib.sha256("\n".join(faces.names).encode(errors="surrogateescape")).hexdigest()[:16]
    run = {"--data": resume.pictures_word(faces.pixels), "--labels": names, "--batch": options.batch, "--seed": options.seed}
    start, epoch = time.time(), 0
    if Path(state_path).exists():
        with resume.reading(state_path):
            state = resume.load(state_path)
            resume.require_same(state, run)
            trainee.load_state_dict(state["trainee"])
            optimizer.load_state_dict(state["optimizer"])
            opinions.load(state["opinions"])
            epoch = state["epoch"]
        done = "; nothing to do: raise --epochs, or give another --state" if epoch >= options.epochs else ""
        cli.say(f"going on from {state_path}, after {epoch} epochs{done}")
    while epoch < options.epochs and (time.time() - start) / 60 < options.minutes:
        began = time.time()
        loss = train_epoch(trainee, optimizer, faces, indices, opinions, epoch, options)
        epoch += 1
        state = {"trainee": trainee.state_dict(), "optimizer": optimizer.state_dict(), "opinions": opinions.mean, "epoch": epoch}
        resume.save(state_path, state | {"run": run})
        rate = len(indices) / (time.time() - began)
        table = measure(trainee.folded(), faces, limit=300) if epoch > options.small_epochs else {}  # wants the full size
        report({"epoch": epoch, "loss": round(loss, 4), "images_per_second": round(rate, 1)} | {k: round(v, 4) for k, v in table.items()})
    return trainee.folded()


def train_epoch(trainee, optimizer, faces, indices, opinions, epoch, options):
    """One pass over the training images; returns the mean loss. The learning rate rises over a tenth and falls as a cosine."""
    trainee.train()
    device = trainee.net.fc1.weight.device
    torch.manual_seed(resume.seed(options.seed, epoch))  # dropout
    rng = torch.Generator().manual_seed(options.seed * 1000 + epoch)
    size = faces.pixels.shape[-1] // (2 if epoch < options.small_epochs else 1)
    batches = indices[torch.randperm(len(indices), generator=rng)].split(options.batch)
    total = 0.0
    for i, batch in enumerate(batches):
        progress = (epoch + i / len(batches)) / options.epochs
        rate = options.lr * min(progress / 0.1, 0.5 + 0.5 * math.cos(math.pi * progress)) + 1e-6
        for group in optimizer.param_groups:
            group["lr"] = rate
        flip = torch.rand(len(batch), generator=rng) < 0.5
        x = augment(faces.pixels[batch].to(device), flip, size, rng)
        target = {name: values[batch] for name, values in faces.targets.items()}
        target["yaw"] = torch.where(flip, -target["yaw"], target["yaw"])
        if progress > 0.5:
            target = opinions.correct(target, batch)
        raw = trainee(x.contiguous(memory_format=torch.channels_last))
        loss = loss_of(raw, {name: values.to(device) for name, values in target.items()})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        opinions.update(batch, raw)
        total += loss.item() / len(batches)
    return total


# ---------------------------------------------------------------------------------------------------------------------
# Measures


@torch.no_grad()
def score(net, pixels, indices, batch=100):
    """{attribute: [len(indices)]} of uint8 images."""
    parts = [net.scores(pixels[i].to(net.fc1.weight.device).float() / 127.5 - 1) for i in indices.split(batch)]
    return {name: torch.cat([p[name] for p in parts]).cpu() for name in parts[0]}


def measure(net, faces, limit=None):
    """{what: value} on held-out images, against the labels; smile and glasses where those are trusted."""
    indices = torch.arange(len(faces.names))[faces.held_out][:limit]
    scores, target = score(net, faces.pixels, indices), {k: v[indices] for k, v in faces.targets.items()}
    table = {}
    for name in BINARY:
        known = ~target[name].isnan()
        right = (scores[name] > 0) == (target[name] > 0.5)
        table[f"{name}_accuracy"] = right[known].float().mean().item()
    table["glasses_found"] = (scores["glasses"] > 0)[target["glasses"] == 1].float().mean().item()
    years = 25 + 10 * target["age"].sum(dim=1)
    table["age_correlation"] = torch.corrcoef(torch.stack([scores["age"], years]))[0, 1].item()
    table["age_error_years"] = (scores["age"] - years).abs().mean().item()
    old, seen = target["age"][:, 2] > 0, scores["age"] > 50
    table["over_50_accuracy"] = (old == seen).float().mean().item()
    table["over_50_balanced"] = (seen[old].float().mean() + (~seen[~old]).float().mean()).item() / 2
    known = ~target["yaw"].isnan()
    table["yaw_correlation"] = torch.corrcoef(torch.stack([scores["yaw"][known], target["yaw"][known]]))[0, 1].item()
    return table


def measure_by_hand(net, faces, hand_labels):
    """{what: value} against hand labels of held-out images."""
    held_out, table = faces.held_out, {}
    for attribute in sorted({a for _, a, _ in hand_labels}):
        chosen = [(i, value) for i, a, value in hand_labels if a == attribute and held_out[i]]
        if not chosen:
            continue
        scores = score(net, faces.pixels, torch.tensor([i for i, _ in chosen]))[attribute]
        yes, found = torch.tensor([value for _, value in chosen]), scores > (50 if attribute == "age" else 0)
        table[f"{attribute}_accuracy ({len(chosen)} images, {int(yes.sum())} yes)"] = (yes == found).float().mean().item()
        table[f"{attribute}_found"], table[f"{attribute}_false_alarms"] = (
            found[yes].float().mean().item(),
            found[~yes].float().mean().item(),
        )
    return table


@dataclasses.dataclass
class Config:
    """Settings of a run."""

    epochs: int = setting(30, "passes over the data, all runs together", least=1)
    small_epochs: int = setting(10, "of these, the first at half the side, four times as fast", least=0)
    minutes: float = setting(math.inf, "stop after the epoch in which so many pass; the same command goes on", least=0)
    batch: int = setting(64, "images a step", least=2)
    lr: float = setting(0.002, "highest learning rate (AdamW)", above=0)
    seed: int = setting(0, "of everything drawn at random", least=0, most=10**12)

    __post_init__ = check


def parser():
    p = cli.Parser(__doc__)
    p.add_argument("--data", required=True, metavar="ZIP", help="folder, .zip or .tar of aligned face crops")
    p.add_argument("--labels", required=True, metavar="CSV", help="their labels, a row an image (see above)")
    p.add_argument("--out", required=True, metavar="FILE", help="where the network goes (.safetensors, float16)")
    p.add_argument("--state", metavar="FILE", help="what a stopped run goes on from (default: runs/NAME of --out.pt)")
    p.add_argument("--hand_labels", metavar="CSV", help="labels given by eye: taught on training images, measured on held-out ones")
    add_flags(p, Config)
    add_device_flag(p)
    return p


def main(argv=None):
    args = parser().parse_args(argv)
    config, device = from_flags(Config, args), session.device(args.device)
    state = args.state or Path("runs") / f"{Path(args.out).stem}.pt"
    outputs.check_checkpoint(args.out, "attributes")
    outputs.check_state(state)
    faces = read_faces(args.data, args.labels)
    if len(faces.names) < 10:
        raise ValueError(f"{args.labels}: {len(faces.names)} images; give 10 or more, since every tenth is held out")
    print(f"{len(faces.names)} images of {args.data}, {int(faces.held_out.sum())} of them held out", file=sys.stderr, flush=True)
    hand_labels = read_hand_labels(args.hand_labels, faces) if args.hand_labels else []
    net = train(faces, teach(faces, hand_labels), config, state, lambda line: print(json.dumps(line), flush=True), device)
    outputs.require_finite(args.out, net)
    checkpoints.save(args.out, net, half=True, source=SOURCE, license=LICENSE)
    tables = {"held out, against the labels": measure(net, faces)}
    if hand_labels:
        tables["held out, against labels by eye"] = measure_by_hand(net, faces, hand_labels)
    for title, table in tables.items():
        print(title)
        for what, value in table.items():
            print(f"  {what:<44} {value:8.3f}")
    print(args.out)


if __name__ == "__main__":
    cli.run(main)
