"""Where faces are in a picture, and where their parts are: dlib's detector and 68 landmarks.

dlib's landmark model was trained on iBUG 300-W, which is for non-commercial use.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

DETECT_SIDE = 1000  # photographs are shrunk to this for detection: faces of 80 pixels and more are found there
CROP_SIDE = 256  # an aligned crop is enlarged to this, and gets a border: the detector wants room around a face
LEFT_EYE, RIGHT_EYE, MOUTH = slice(36, 42), slice(42, 48), (48, 54)

# Of each part: its landmarks, by how much what surrounds them is enlarged, and the least height of that, to its width. Parts
# that may be flat, such as a closed mouth, are surrounded by an ellipse; the nose (least height 0) by its own outline.
PARTS = {
    "left_eye": ([*range(36, 42)], 1.8, 0.7),
    "right_eye": ([*range(42, 48)], 1.8, 0.7),
    "left_brow": ([*range(17, 22)], 1.4, 0.4),
    "right_brow": ([*range(22, 27)], 1.4, 0.4),
    "nose": ([*range(27, 36)], 1.4, 0.0),
    "mouth": ([*range(48, 60)], 1.3, 0.5),
}
GROUPS = {"eyes": ("left_eye", "right_eye"), "brows": ("left_brow", "right_brow")}
MADE = {"face": "from the chin to the middle of the forehead", "hair": "what lies outside of the face, above the mouth"}
NAMES = (*PARTS, *GROUPS, *MADE)


class Detector:
    """dlib's face detector and landmark model, loaded once."""

    def __init__(self, shape_predictor=None, min_score=0.3):
        try:
            import dlib
        except ImportError:
            raise OSError("dlib is missing: pip install dlib-bin (or pass --landmarks FILE.json)") from None
        self.detect, self.min_score = dlib.get_frontal_face_detector(), min_score
        self.predict = dlib.shape_predictor(str(shape_predictor or _landmark_model()))
        self.rectangle = dlib.rectangle

    def __call__(self, image):
        """PIL RGB -> list of (score, landmarks [68, 2]), the largest face first."""
        factor = max(1.0, max(image.size) / DETECT_SIDE)
        small = image.resize((round(image.width / factor), round(image.height / factor))) if factor > 1 else image
        boxes, scores, _ = self.detect.run(np.asarray(small), 1, self.min_score)
        pixels, found = np.asarray(image), []
        for box, score in zip(boxes, scores, strict=True):
            full = self.rectangle(*(round(v * factor) for v in (box.left(), box.top(), box.right(), box.bottom())))
            shape = self.predict(pixels, full)
            found.append((box.area(), float(score), np.array([(p.x, p.y) for p in shape.parts()], float)))
        return [(score, marks) for _, score, marks in sorted(found, key=lambda f: -f[0])]


def _landmark_model():
    # found, not imported: the package's own __init__ needs pkg_resources, which is gone from current setuptools
    spec = importlib.util.find_spec("face_recognition_models")
    path = Path(spec.submodule_search_locations[0]) / "models" / "shape_predictor_68_face_landmarks.dat" if spec else None
    if path is None or not path.is_file():
        raise OSError("the landmark model is missing: pip install face_recognition_models, or pass --shape_predictor FILE")
    return path


@functools.cache
def crop_detector():
    """A `Detector` for aligned crops, where a face is known to be; read once, for 65 MB are."""
    return Detector(min_score=-0.3)


def landmarks_of_crop(image):
    """68 landmarks [68, 2] of the face in an aligned crop (PIL RGB), in its pixels; crops of 64 pixels suffice.

    Raises:
        ValueError: no face found.
    """
    factor = max(1.0, CROP_SIDE / image.width)
    big = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    border = round(0.3 * big.width)
    found = crop_detector()(Image.fromarray(np.pad(np.asarray(big), ((border, border), (border, border), (0, 0)), "edge")))
    if not found:
        raise ValueError("no face found, so its parts are not known; draw the mask, or use ellipse: or box:")
    return (found[0][1] - border + 0.5) / factor - 0.5


def draw_part(name, landmarks, size):
    """A part of a face as a mask, numpy float32 [size, size], 0 or 1 with smooth edges.

    Args:
        name: of NAMES.
        landmarks: [68, 2], as fractions 0..1 of the picture.

    Raises:
        ValueError: another name.
    """
    if name in GROUPS:
        return np.maximum.reduce([draw_part(part, landmarks, size) for part in GROUPS[name]])
    if name == "hair":
        mouth = landmarks[list(MOUTH), 1].mean()
        above = (np.arange(size) + 0.5) / size < mouth
        return (1 - draw_part("face", landmarks, size)) * above[:, None].astype(np.float32)
    if name == "face":  # the jaw, and the brows raised by half their height above the nose's base
        up = landmarks[17:27].mean(0) - landmarks[33]
        return _filled(np.concatenate([landmarks[:17], landmarks[17:27] + 0.5 * up]), size)
    if name not in PARTS:
        raise ValueError(f"part {name!r}; known are {', '.join(NAMES)}")
    points, factor, flattest = PARTS[name]
    outline = landmarks[points]
    low, high = outline.min(0), outline.max(0)
    middle, half = (low + high) / 2, (high - low) / 2 * factor
    if not flattest:
        return _filled(middle + (outline - middle) * factor, size)
    half[1] = max(half[1], half[0] * flattest)
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return _filled(middle + np.stack([np.cos(turn), np.sin(turn)], 1) * half, size)


def _filled(points, size):
    """The convex hull of points (fractions 0..1), filled, at 4 samples a pixel."""
    from scipy.spatial import ConvexHull

    hull = points[ConvexHull(points).vertices] * (4 * size) - 0.5
    page = Image.new("L", (4 * size, 4 * size))
    ImageDraw.Draw(page).polygon([tuple(map(float, p)) for p in hull], fill=255)
    return np.asarray(page.resize((size, size), Image.Resampling.BOX), np.float32) / 255
