"""Where faces are in a picture, and where their parts are: dlib's detector and 68 landmarks.

dlib's landmark model was trained on iBUG 300-W, which is for non-commercial use.
"""

import bz2
import functools
import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from editor import downloads, files

WINDOW = 80  # pixels: the smallest face that dlib's detector sees in the picture it is given
DETECT_SIDE = 1000  # photographs are shrunk to this for detection, and then doubled: faces of 40 pixels are seen there
FINE_FACE = 150  # of a photograph so large that the shrinking hides faces of this size, a second look finds them
MAX_MODEL = 300_000_000  # bytes unpacked; the landmark model has 100 million
CROP_SIDE = 256  # an aligned crop is enlarged to this, and gets a border: the detector wants room around a face
TURNS = (0, 30, -30, 60, -60, 90, -90)  # degrees: dlib's detector finds faces that lie up to half of that apart
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

    def __init__(self, shape_predictor=None, min_score=0.3, report=None):
        """
        Args:
            shape_predictor: dlib's 68-landmark model, as `landmark_model` takes it.
            min_score: detections below are no faces.
            report: called with (bytes so far, bytes in all or None) where the model has to be downloaded.

        Raises:
            OSError: dlib or its model is missing. ValueError: what is called a model is none.
        """
        try:
            import dlib
        except ImportError:
            raise OSError("dlib is missing: pip install dlib-bin (or pass --landmarks FILE.json)") from None
        path = landmark_model(shape_predictor, report)
        self.detect, self.min_score, self.path = dlib.get_frontal_face_detector(), min_score, path
        try:
            self.predict = dlib.shape_predictor(str(path))
        except Exception as error:  # a RuntimeError, or whatever garbage brings out
            raise ValueError(f"{path}: no landmark model of dlib's ({str(error).splitlines()[0][:200] if str(error) else error})") from None
        self.rectangle = dlib.rectangle

    def __call__(self, image):
        """PIL RGB -> list of (score, landmarks [68, 2]), the largest face first."""
        factor = shrinking(image.size)
        found = self._look(image, factor, 1)  # (left, top, right, bottom, score) in the photograph's pixels
        if smallest(image.size) == FINE_FACE:
            found += [box for box in self._look(image, FINE_FACE / WINDOW, 0) if not any(_same_face(box, known) for known in found)]
        pixels, faces = np.asarray(image), []
        for box in sorted(found, key=lambda b: -(b[2] - b[0] + 1) * (b[3] - b[1] + 1)):
            shape = self.predict(pixels, self.rectangle(*(round(v) for v in box[:4])))
            marks = np.array([(p.x, p.y) for p in shape.parts()], float)
            if marks.shape != (68, 2):
                raise ValueError(f"{self.path}: a model of {len(marks)} landmarks; 68 are needed")
            faces.append((box[4], marks))
        return faces

    def _look(self, image, factor, doublings):
        small = image.resize((round(image.width / factor), round(image.height / factor))) if factor > 1 else image
        boxes, scores, _ = self.detect.run(np.asarray(small), doublings, self.min_score)
        edges = [[v * factor for v in (box.left(), box.top(), box.right(), box.bottom())] for box in boxes]
        return [(*edge, float(score)) for edge, score in zip(edges, scores, strict=True)]


def shrinking(size):
    """How much a photograph of (width, height) is shrunk for the first look."""
    return max(1.0, max(size) / DETECT_SIDE)


def smallest(size):
    """The smallest face that is found in a photograph of (width, height), in its pixels, about."""
    first = WINDOW / 2 * shrinking(size)
    return round(first) if first <= 1.1 * FINE_FACE else FINE_FACE  # a tenth is not worth a second look: 12-megapixel telephones


def _same_face(a, b):
    """Whether the middle of either box (left, top, right, bottom, ...) lies in the other."""

    def inside(p, q):
        return q[0] <= (p[0] + p[2]) / 2 <= q[2] and q[1] <= (p[1] + p[3]) / 2 <= q[3]

    return inside(a, b) or inside(b, a)


def landmark_model(name=None, report=None):
    """The path of dlib's 68-landmark model.

    Args:
        name: a file; "landmarks": the one of `downloads`, fetched once and unpacked beside it; None: the one of the package
            face_recognition_models, else the same download.
        report: as `downloads.fetch` takes it.

    Raises:
        OSError, ValueError: no such file, the download fails, or what came cannot be unpacked.
    """
    if name not in (None, "landmarks"):
        if not Path(name).is_file():
            raise ValueError(f"{name}: {'not a file' if Path(name).exists() else 'no such file'}; dlib's landmark model is needed")
        return Path(name)
    # found, not imported: the package's own __init__ needs pkg_resources, which is gone from current setuptools
    spec = importlib.util.find_spec("face_recognition_models") if name is None else None
    if spec:
        path = Path(spec.submodule_search_locations[0]) / "models" / "shape_predictor_68_face_landmarks.dat"
        if path.is_file():
            return path
    unpacked = downloads.cache_folder() / "landmarks.dat"
    if not unpacked.is_file():
        _unpack(downloads.fetch("landmarks", report), unpacked)
    return unpacked


def _unpack(packed, target):
    with files.atomic(target) as temporary, open(temporary, "wb") as out:
        try:
            with bz2.open(packed) as source:
                while block := source.read(1 << 20):
                    out.write(block)
                    if out.tell() > MAX_MODEL:
                        raise ValueError("too large")
        except (ValueError, EOFError, OSError) as error:
            if getattr(error, "errno", None):  # a full disk
                raise
            raise ValueError(f"{packed}: no landmark model packed with bzip2 ({error}); remove it and try again") from None


class Descriptors:
    """dlib's face recognition network (99.4 % on LFW): aligned crops -> 128 numbers; below 0.6 apart: the same person.

    Raises:
        ValueError: its package is not installed.
    """

    def __init__(self):
        import dlib

        package = importlib.util.find_spec("face_recognition_models")
        if package is None:
            raise ValueError("the package face_recognition_models is not installed, which tells people apart; pip install it")
        folder = Path(package.submodule_search_locations[0]) / "models"
        self.dlib = dlib
        self.network = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))
        self.points = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))

    def __call__(self, pixels, landmarks_of=None):
        """uint8 [H, W, 3] -> [128]; the chip is cut by the landmarks of `landmarks_of` (default: the image itself)."""
        large = [Image.fromarray(np.asarray(p)).resize((256, 256)) for p in (pixels, pixels if landmarks_of is None else landmarks_of)]
        face = self.dlib.rectangle(26, 26, 230, 230)  # aligned crops: the face fills most of it
        shape = self.points(np.asarray(large[1]), face)
        chip = self.dlib.get_face_chip(np.asarray(large[0]), shape, size=150, padding=0.25)
        return np.array(self.network.compute_face_descriptor(chip))


@functools.cache
def crop_detector():
    """A `Detector` for aligned crops, where a face is known to be; read once, for 65 MB are."""
    return Detector(min_score=-0.3)


def at_every_turn(detector, image):
    """As `detector(image)`, of faces that lie turned, too: each as it is found in that turn of the picture where it is surest."""
    every = []
    for degrees in TURNS:
        turned = image.rotate(degrees, Image.Resampling.BICUBIC, expand=True) if degrees else image
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        middle, before = (np.array(turned.size) - 1) / 2, (np.array(image.size) - 1) / 2
        every += [(score, (marks - middle) @ np.array([[c, s], [-s, c]]) + before) for score, marks in detector(turned)]
    found = []
    for score, marks in sorted(every, key=lambda one: -one[0]):
        if not any(_same_face((*marks.min(0), *marks.max(0)), (*known.min(0), *known.max(0))) for _, known in found):
            found.append((score, marks))
    return sorted(found, key=lambda one: -np.prod(np.ptp(one[1], axis=0)))


def landmarks_of_crop(image, turned=False):
    """68 landmarks [68, 2] of the face in an aligned crop (PIL RGB), in its pixels; crops of 64 pixels suffice.

    Args:
        turned: the face may lie turned.

    Raises:
        ValueError: no face found.
    """
    factor = max(1.0, CROP_SIDE / image.width)
    big = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    border = round(0.3 * big.width)
    wide = Image.fromarray(np.pad(np.asarray(big), ((border, border), (border, border), (0, 0)), "edge"))
    found = sorted(at_every_turn(crop_detector(), wide), key=lambda one: -one[0]) if turned else crop_detector()(wide)
    if not found:
        raise ValueError("no face found, so its parts are not known; draw the mask, or use ellipse: or box:")
    return (found[0][1] - border + 0.5) / factor - 0.5


def face_quad(landmarks, scale=1.0, em_scale=0.1):
    """The square to cut out, from 68 landmarks.

    Args:
        landmarks: [68, 2] in pixels, dlib's order.
        scale: size of the square (FFHQ 1.0).
        em_scale: how far its centre lies from the eyes towards the mouth (FFHQ 0.1).

    Returns:
        [4, 2] corners: upper left, lower left, lower right, upper right.
    """
    left, right = landmarks[LEFT_EYE].mean(0), landmarks[RIGHT_EYE].mean(0)
    eyes, between = (left + right) / 2, right - left
    down = landmarks[list(MOUTH)].mean(0) - eyes
    x = between - down[::-1] * [-1, 1]
    with np.errstate(invalid="ignore", divide="ignore"):  # eyes and mouth in one place: NaN, which `check_quad` refuses
        x *= scale * max(2 * np.hypot(*between), 1.8 * np.hypot(*down)) / np.hypot(*x)
    y = x[::-1] * [-1, 1]
    c = eyes + em_scale * down
    return np.stack([c - x - y, c - x + y, c + x + y, c + x - y])


def side_of(quad):
    """The length of a square's upper side, from its corners [4, 2]."""
    return float(np.hypot(*(quad[3] - quad[0])))


def upright(quad):
    """A square [4, 2] turned back around its middle, so that its sides lie as the photograph's."""
    half = side_of(quad) / 2
    return quad.mean(0) + half * np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])


def in_square(picture, said):
    """68 landmarks [68, 2] of the face in a square picture (PIL RGB), in its pixels.

    Args:
        said: the record beside it. Where align_images.py wrote it, its landmarks are taken, which were found in the photograph.

    Raises:
        ValueError: no face found, or landmarks in the record that are none.
    """
    if "quad" not in said or "landmarks" not in said:
        try:
            return landmarks_of_crop(picture, turned=True)
        except ValueError:
            raise ValueError("no face found to place; cut it out with align_images.py --upright (--landmarks FILE.json)") from None
    try:
        quad, marks = np.array(said["quad"], float).reshape(4, 2), np.array(said["landmarks"], float).reshape(68, 2)
        sides = np.stack([quad[3] - quad[0], quad[1] - quad[0]])
        share = (marks - quad[0]) @ np.linalg.inv(sides)  # of the square's sides
        if not (np.linalg.det(sides) > 0 and np.isfinite(share).all()):
            raise ValueError
    except (ValueError, TypeError, OverflowError, np.linalg.LinAlgError):
        raise ValueError("the record beside it holds no quad and 68 landmarks as align_images.py writes them; cut it out again") from None
    return share * picture.width - 0.5


def fills(picture, alignment):
    """How much of its side the face of a square picture (PIL RGB) fills, where 1 is what the generator's alignment cuts out.

    Args:
        alignment: {"scale", "em_scale"} of the generator.

    Returns:
        A number, or None where no face is found or dlib is missing.
    """
    try:
        quad = face_quad(landmarks_of_crop(picture), **alignment)
    except (ValueError, OSError):
        return None
    return side_of(quad) / picture.width


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
    from scipy.spatial import ConvexHull, QhullError

    try:
        hull = points[ConvexHull(points).vertices] * (4 * size) - 0.5
    except (QhullError, ValueError):
        raise ValueError("the landmarks of this part lie on one line, so it has no outline; draw the mask") from None
    page = Image.new("L", (4 * size, 4 * size))
    ImageDraw.Draw(page).polygon([tuple(map(float, p)) for p in hull], fill=255)
    return np.asarray(page.resize((size, size), Image.Resampling.BOX), np.float32) / 255
