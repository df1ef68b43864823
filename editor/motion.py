"""How StyleGAN3's input is turned and shifted: the transform [3, 3] that its network takes, and what lies between two.

A transform says where each pixel's place is taken from, so it is the inverse of the motion that is seen. x is to the right and y down,
in widths of the picture, (0, 0) in the middle.
"""

import math

import torch


def transform(degrees=0.0, shift=(0.0, 0.0)):
    """The transform for a picture turned by so many degrees, counter-clockwise, and then shifted: float32 [3, 3]."""
    return _inverse(math.radians(degrees), 1.0, *shift).float()


def of_square(corners, side):
    """The transform that puts what the generator draws into a square of a picture: float32 [3, 3].

    Args:
        corners: [4, 2] in the picture's pixels, whose centres are whole numbers, as `landmarks.face_quad` gives them.
        side: of the picture, which is square, in pixels.
    """
    corners = torch.as_tensor(corners, dtype=torch.float64)
    across, down, middle = corners[3] - corners[0], corners[1] - corners[0], corners.mean(0) + 0.5 - side / 2
    seen = torch.cat([torch.stack([across, down, middle], 1) / side, torch.tensor([[0.0, 0, 1]], dtype=torch.float64)])
    return seen.inverse().float()


def between(a, b, amount):
    """A transform at `amount` from a to b, 0..1: the turn goes the shorter way, sizes by their ratio, the shift on a line. float32."""
    (turn, size, *shift), (turn2, size2, *shift2) = _parts(a), _parts(b)
    way = math.remainder(turn2 - turn, 2 * math.pi)
    moved = [p + amount * (q - p) for p, q in zip(shift, shift2, strict=True)]
    return _inverse(turn + amount * way, size * (size2 / size) ** amount, *moved).float().to(a.device)


def is_one(matrix):
    """Whether a matrix [3, 3] turns, scales and shifts, and does no more, and not so far that nothing is left to see."""
    if not matrix.isfinite().all():
        return False
    linear = matrix[:2, :2].double()
    alike = (linear[0, 0] - linear[1, 1]).abs() + (linear[0, 1] + linear[1, 0]).abs() <= 1e-5 * linear.abs().sum()
    near = 0.01 <= linear.det().abs() <= 100 and matrix[:2, 2].abs().max() <= 100
    return bool(alike and near and linear.det() > 0 and matrix[2].tolist() == [0, 0, 1])


def _inverse(turn, size, x, y):
    """float64 [3, 3] of a motion: turn in radians, size as a factor, shift."""
    c, s = size * math.cos(turn), size * math.sin(turn)
    return torch.tensor([[c, s, x], [-s, c, y], [0, 0, 1]], dtype=torch.float64).inverse()


def _parts(matrix):
    """(turn, size, x, y) of the motion that a transform stands for."""
    motion = matrix.detach().cpu().double().inverse()
    return math.atan2(motion[0, 1], motion[0, 0]), math.sqrt(motion[:2, :2].det()), *motion[:2, 2].tolist()
