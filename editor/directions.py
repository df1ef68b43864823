"""Directions that nobody labelled: closed forms that find them in a generator, in the order in which they count.

SeFa (Shen & Zhou 2021, "Closed-form factorization of latent semantics"): what the layers' affines see most of. GANSpace (Haerkoenen et
al. 2020): what w varies most in. StyleSpace (Wu et al. 2021): single channels, by how they go with a score.
"""

from dataclasses import dataclass

import torch

from editor import boundaries, styles


def sefa(G, layers=None):
    """Eigenvectors of A A^T, A [512, channels] the weights of the affines of some layers, each channel's made of length 1.

    Args:
        layers: of W+; None: all. ToRGB's are left out, as in the authors' code (but for their very last one).

    Returns:
        vectors float64 [512, 512], a direction a row, and eigenvalues [512], both by falling eigenvalue; signs as `signed`.

    Raises:
        ValueError: no layer's affine is among them.
    """
    chosen = [a for a in styles.affines(G) if not a.torgb and (layers is None or a.layer in layers)]
    if not chosen:
        raise ValueError(f"layers {','.join(map(str, layers or []))}: SeFa asks the convolutions' styles, and these have none")
    rows = styles.rows(G, chosen)  # [channels, 512]
    return eigenvectors(torch.nn.functional.normalize(rows, dim=1, eps=1e-12))


def eigenvectors(rows):
    """Of rows^T rows, rows [N, 512]: as `sefa` returns them."""
    return principal(rows.t() @ rows)


def principal(matrix):
    """Of a symmetric matrix: eigenvectors, a row each, and eigenvalues, by falling eigenvalue; signs as `signed`."""
    values, vectors = torch.linalg.eigh(matrix)  # by rising eigenvalue
    return signed(vectors.flip(1).t().contiguous()), values.flip(0).clamp(min=0)


def signed(vectors):
    """Rows with the sign by which the component of the largest size is positive: a direction's sign is nobody's choice otherwise."""
    at = vectors.abs().argmax(1, keepdim=True)
    return vectors * torch.where(vectors.gather(1, at) < 0, -1.0, 1.0)


def found(G, method, count, layers=None, samples=20_000, seed=0, callback=None):
    """The first `count` directions by a method of `METHODS` that asks no score -> list of `boundaries.Boundary`.

    A direction's unit is the standard deviation of w along it, over `samples` random faces; distances are counted from their mean.
    """
    mean, covariance = styles.moments(G, samples, seed, callback)
    vectors, values = sefa(G, layers) if method == "sefa" else principal(covariance)
    made, most = [], float(covariance.diagonal().sum())
    for i, vector in enumerate(vectors[:count]):
        sigma = float((vector @ covariance @ vector).clamp(min=0).sqrt())
        if not sigma**2 > 1e-10 * most:
            continue  # w does not vary along it: what is left is rounding
        info = {"method": method, "number": i, "value": float(values[i]), "samples": samples, "seed": seed}
        made.append(boundaries.Boundary(vector[None], -float(vector @ mean), unit=sigma, layers=layers, info=info))
    return made


@dataclass
class Ranked:
    """A style channel. place: in style space. correlation: of it with the score over faces. unit: its standard deviation."""

    place: int
    correlation: float
    unit: float


def channels(G, ws, scores, layers=None, torgb=False):
    """All style channels by the size of their correlation with a score, largest first: list of `Ranked`.

    A channel is an affine of w, so its covariance with the score is that of w: all channels cost one product of matrices.

    Args:
        ws: W of faces, [N, 512] or [N, 1, 512], or W+ [N, L, 512]. scores: [N].
        layers: of W+, whose channels are ranked; None: all. torgb: ToRGB's, and none but those.

    Raises:
        ValueError: the score is the same for all faces.
    """
    ws = torch.as_tensor(ws)
    ws = ws[:, None] if ws.ndim == 2 else ws
    y = torch.as_tensor(scores, dtype=torch.float64)
    y = y - y.mean()
    if not y.norm() > 1e-9:
        raise ValueError("the score is the same for all faces")
    ranked = []
    for affine in styles.affines(G):
        if affine.torgb != torgb or (layers is not None and affine.layer not in layers):
            continue
        w = ws[:, affine.layer if ws.shape[1] > 1 else 0].double()
        s = (w - w.mean(0)) @ styles.rows(G, [affine]).t()  # [N, channels]
        sigma = s.square().mean(0).sqrt()
        correlation = (y @ s) / (y.norm() * len(y) ** 0.5 * sigma.clamp(min=1e-12))
        units = styles.spread(G)[affine.first : affine.first + affine.count]
        each = zip(correlation.tolist(), sigma.tolist(), units.tolist(), strict=True)
        ranked += [Ranked(affine.first + i, r, unit) for i, (r, own, unit) in enumerate(each) if min(own, unit) > 1e-9]
    return sorted(ranked, key=lambda one: -abs(one.correlation))


def of_channels(G, amounts, **info):
    """{place: amount} of style channels -> one `boundaries.Boundary` in style space, whose step of 1 adds these amounts."""
    delta = torch.zeros(1, styles.count(G), dtype=torch.float64)
    for place, amount in amounts.items():
        delta[0, place] = amount
    size = delta.norm().item()
    said = {styles.label(G, place): amount for place, amount in sorted(amounts.items(), key=lambda item: -abs(item[1]))}
    return boundaries.Boundary(delta / size, unit=size, space="style", info=info | {"channels": said})


METHODS = {
    "sefa": "closed form: what the layers' affines see most of (SeFa)",
    "pca": "what w varies most in, over random faces (GANSpace)",
    "channels": "single channels of style space, by an attribute (StyleSpace)",
}
