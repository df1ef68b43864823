"""Frames -> GIF, MP4, WebP or APNG, by ffmpeg; or each a picture of its own. Neither replaces what is something else."""

import errno
import os
import re
import struct
import subprocess
import tempfile
import zlib
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from editor import files, images
from editor.images import to_pil

# What `Animation` writes: ending -> ffmpeg's settings. Frames are 8-bit RGB; {loop} is how often it plays, as the format counts.
MP4 = (
    "-vf scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int+bicubic,"
    "setparams=color_primaries=bt709:color_trc=bt709 "
    "-c:v libx264 -preset medium -crf 16 -pix_fmt yuv420p -movflags +faststart -f mp4"
)
# A palette for each frame: one for all would need every frame first, and costs 2.5 dB on a morph. Error diffusion looks best:
# an ordered dither shows its pattern, none at all shows bands.
GIF = "-lavfi split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:dither=sierra2_4a -f gif -loop {loop}"
APNG = "-c:v apng -pred mixed -pix_fmt rgb24 -f apng -plays {loop}"
ANIMATES = {
    ".gif": GIF,
    ".mp4": MP4,
    ".webp": "-c:v libwebp_anim -quality 90 -compression_level 4 -pix_fmt yuva420p -f webp -loop {loop}",
    ".png": APNG,
    ".apng": APNG,
}
WIDTHS = (4, 8192)
STILL_FTYP = (b"hei", b"hev", b"mif", b"msf", b"avi")  # how the brands of HEIC and AVIF begin: pictures in a film's container
MIN_FPS = 0.01  # a frame in 100 seconds; formats count the time of a frame in 16 to 32 bits, and ffmpeg refuses what they cannot hold
MAX_FPS = {".gif": 50}  # GIF counts hundredths of a second, and browsers slow delays below two of them down to ten


def require_replaceable(path):
    """See, before any work, that what an animation would replace is one itself.

    Raises:
        ValueError: a file of that name is there and is no animation: a photograph, a rendering, a mask.
        OSError: it cannot be read.
    """
    if os.path.exists(path) and not os.path.isdir(path) and not _is_animation(path):  # of a folder `files.check_writable` says it
        raise ValueError(f"{path}: exists and is no animation; choose another name, or remove it first")


def _is_animation(path):
    """Whether a file is a GIF, an MP4, or a PNG or WebP that says it moves, were it of one frame."""
    if not os.path.isfile(path):  # a pipe, whose reading might never end
        return False
    with open(path, "rb") as file:
        start = file.read(21)
        if start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X":
            return bool(start[20:] and start[20] & 2)
        if start[:8] == b"\x89PNG\r\n\x1a\n":
            file.seek(8)
            while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
                if head[4:] == b"acTL":
                    return True
                file.seek(int.from_bytes(head[:4]) + 4, os.SEEK_CUR)
            return False
    return start[:6] in (b"GIF87a", b"GIF89a") or (start[4:8] == b"ftyp" and start[8:11] not in STILL_FTYP)


def _moving(data, size, fps, loop):
    """A PNG or WebP that ffmpeg wrote, as an animation of one frame where it wrote a plain picture, since all frames were one.

    By that, a later run knows it for an animation that it may replace.

    Args:
        data: bytes of the file. size: (height, width). fps, loop: as of `Animation`.
    """
    height, width = size
    if data[8:16] == b"WEBPVP8 ":
        body = data[12:]
        place = bytes(6) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        frame = place + min(round(1000 / fps), 2**24 - 1).to_bytes(3, "little") + b"\0"
        head = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + place[6:]
        anim = b"ANIM" + struct.pack("<I", 6) + b"\xff" * 4 + struct.pack("<H", loop)
        chunks = b"WEBP" + head + anim + b"ANMF" + struct.pack("<I", len(frame) + len(body)) + frame + body
        return b"RIFF" + struct.pack("<I", len(chunks)) + chunks
    at = data.find(b"IDAT") - 4
    if data[:4] == b"\x89PNG" and at > 0 and b"acTL" not in data[:at]:

        def chunk(name, *values):
            body = name + struct.pack(*values)
            return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

        delay = min(round(1000 / fps), 65535)
        frame = chunk(b"fcTL", ">5I2H2B", 0, width, height, 0, 0, delay, 1000, 0, 0)
        return data[:at] + chunk(b"acTL", ">2I", 1, loop) + frame + data[at:]
    return data


# ---------------------------------------------------------------------------------------------------------------------
# Pictures of an optimisation's steps, each a file

STEP = re.compile(r"[0-9]{5,}\.png")
STEP_MARK = "StyleGAN Latent Editor: --save_every"  # what such a picture says of its maker, by which a later run may remove it


def steps_of(result):
    """Where the pictures of steps go: the folder NAME_steps beside a result, NAME.png."""
    return Path(result).with_name(f"{Path(result).stem}_steps")


def save_step(result, step, picture):
    """Write the picture of a step, by its number."""
    said = PngImagePlugin.PngInfo()
    said.add_text("Software", STEP_MARK)
    images.save(steps_of(result) / f"{step:05}.png", picture, pnginfo=said)


def _called_steps(result):
    """The files that are called as pictures of steps are, whoever wrote them."""
    return sorted(path for path in steps_of(result).glob("*.png") if STEP.fullmatch(path.name))


def remove_steps(result):
    """Remove the pictures of an earlier run's steps, and no other file."""
    for path in filter(_is_step, _called_steps(result)):
        path.unlink()


def _is_step(path):
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(200)  # the text stands right after the picture's size
    return start[:4] == b"\x89PNG" and b"tEXtSoftware\0" + STEP_MARK.encode() in start


def require_own_steps(result):
    """See, before any work, that all files that are called as pictures of steps were written by `save_step`.

    Raises:
        ValueError: one is somebody else's, and would be removed or replaced.
        OSError: one cannot be read.
    """
    for path in _called_steps(result):
        if not _is_step(path):
            raise ValueError(f"{path}: would be removed by --save_every, and does not say that it wrote it; move it elsewhere first")


# ---------------------------------------------------------------------------------------------------------------------
# An animation


class Animation:
    """Frames -> an animation, one after the other; the ending chooses GIF, MP4 (H.264), WebP or APNG.

        with animation.Animation("morph.mp4", fps=25) as movie:
            for frame in frames:
                movie.add(frame)

    ffmpeg encodes in a process of its own while the next frame is made; no frame is held. The file appears when the block
    ends well, whole; otherwise (an error, Ctrl-C) not at all. MP4 wants even sides: the last row or column is repeated.

    Args:
        path: ends with a key of ANIMATES.
        fps: frames a second.
        loop: how often it plays; 0: for ever. MP4 cannot say: there the player decides.
        width: of the animation in pixels, 4 to 8192; frames are resized to it with Lanczos and keep their shape. None: as they are.

    Attributes:
        count: frames so far.
        still: whether all of them are equal. libwebp makes one frame of such.

    Raises:
        ValueError: another ending; fps, loop or width out of range; `add`: a frame of another size or type; on leaving: no frame.
        OSError: the file cannot be written, or ffmpeg is missing or fails (with its words).
    """

    def __init__(self, path, fps=10, loop=0, width=None):
        self.path, self.fps, self.loop, self.width = Path(path), fps, loop, width
        self.size, self.count, self.still = None, 0, True
        self._first, self._process = None, None
        ending = self.path.suffix.lower()
        if ending not in ANIMATES:
            raise ValueError(f"{path}: cannot write {ending or 'a file without ending'} as an animation; use {' '.join(ANIMATES)}")
        if not MIN_FPS <= fps <= MAX_FPS.get(ending, 240):
            raise ValueError(f"fps {fps}: at least {MIN_FPS}, and at most {MAX_FPS.get(ending, 240)} in {ending}")
        if not 0 <= loop <= 65535:
            raise ValueError(f"loop {loop}: 0 (for ever) to 65535 times")
        if width is not None and not WIDTHS[0] <= width <= WIDTHS[1]:
            raise ValueError(f"width {width}: from {WIDTHS[0]} to {WIDTHS[1]} pixels")
        if ending == ".gif":  # counts repetitions, and has no word for once but to say nothing
            loop = {0: 0, 1: -1}.get(loop, loop - 1)
        self._settings = ANIMATES[ending].format(loop=loop).split()

    def __enter__(self):
        self._cleanup = ExitStack()
        self._temporary = self._cleanup.enter_context(files.atomic(self.path))
        self._said = self._cleanup.enter_context(self._scratch())
        self._cleanup.callback(self._kill)
        return self

    def __exit__(self, *error):
        if error[0] is not None:
            return self._cleanup.__exit__(*error)
        with self._cleanup:
            self._finish()

    def add(self, frame):
        """Append one frame, anything that `to_pil` takes (numpy uint8 [H, W, 3] goes straight through)."""
        picture = to_pil(frame)
        if self.size is None:
            self.size = (picture.height, picture.width)
            self._shown = self._shown_size()
            self._start()
        if (picture.height, picture.width) != self.size:
            (h, w), (h0, w0) = (picture.height, picture.width), self.size
            raise ValueError(f"{self.path}: frame {self.count} is {w}x{h}, the first was {w0}x{h0}; all frames must be of one size")
        height, width = self._shown
        if self._shown != self.size:
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        pixels = np.asarray(picture)
        if self.still:
            self._first = pixels if self._first is None else self._first
            self.still = np.array_equal(pixels, self._first)
        if self.path.suffix.lower() == ".mp4":
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        try:
            self._process.stdin.write(pixels.tobytes())
        except OSError:
            self._failed()
        self.count += 1

    def _shown_size(self):
        """(height, width) of the animation."""
        if self.width is None:
            return self.size
        height = max(1, round(self.size[0] * self.width / self.size[1]))
        if height > 2 * WIDTHS[1]:
            raise ValueError(f"{self.path}: frames of {self.size[1]}x{self.size[0]} at width {self.width} would be {height} pixels high")
        return height, self.width

    def _scratch(self):
        """A nameless file for ffmpeg's words: a pipe would fill up, and stop ffmpeg, when they are many."""
        try:
            return tempfile.TemporaryFile()
        except OSError:  # no usable folder for temporaries; the result's own is one
            return tempfile.TemporaryFile(dir=self.path.parent)

    def _start(self):
        try:
            import imageio_ffmpeg

            program = imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError):
            raise OSError(f"{self.path}: animations need ffmpeg: pip install imageio-ffmpeg") from None
        height, width = self._shown
        if self.path.suffix.lower() == ".mp4":
            width, height = width + width % 2, height + height % 2
        source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {self.fps} -i -".split()
        command = [program, "-y", "-nostdin", "-loglevel", "error", *source, *self._settings, str(self._temporary.absolute())]
        # its own session: Ctrl-C is ours to handle, and must not end ffmpeg before its file is removed
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._said, start_new_session=True
        )

    def _failed(self):
        self._process.wait()
        self._said.seek(0)
        words = " ".join(self._said.read().decode(errors="replace").split())
        # with its number and file, it is no error that `files.atomic` has to guess about
        what = words[-300:] or f"exit code {self._process.returncode} (is the disk full?)"
        raise OSError(errno.EIO, f"ffmpeg failed: {what}", str(self.path)) from None

    def _finish(self):
        if self._process is None:
            raise ValueError(f"{self.path}: an animation of no frames")
        try:
            self._process.stdin.close()
        except OSError:
            self._failed()
        if self._process.wait():
            self._failed()
        if self.still and self.path.suffix.lower() in (".webp", ".png", ".apng"):
            data = self._temporary.read_bytes()
            moving = _moving(data, self._shown, self.fps, self.loop)
            if moving != data:
                self._temporary.write_bytes(moving)

    def _kill(self):
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
