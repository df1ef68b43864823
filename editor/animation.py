"""Frames -> GIF, MP4, WebP or APNG, by ffmpeg."""

import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from editor import files
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
MAX_FPS = {".gif": 50}  # GIF counts hundredths of a second, and browsers slow delays below two of them down to ten


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

    Raises:
        ValueError: another ending, fps or loop out of range; `add`: a frame of another size or type; on leaving: no frame.
        OSError: the file cannot be written, or ffmpeg is missing or fails (with its words).
    """

    def __init__(self, path, fps=10, loop=0):
        self.path, self.fps, self.loop = Path(path), fps, loop
        self.size, self.count = None, 0
        self._process = None
        ending = self.path.suffix.lower()
        if ending not in ANIMATES:
            raise ValueError(f"{path}: cannot write {ending or 'a file without ending'} as an animation; use {' '.join(ANIMATES)}")
        if not 0 < fps <= MAX_FPS.get(ending, 240):
            raise ValueError(f"fps {fps}: above 0, and at most {MAX_FPS.get(ending, 240)} in {ending}")
        if not 0 <= loop <= 65535:
            raise ValueError(f"loop {loop}: 0 (for ever) to 65535 times")
        if ending == ".gif":  # counts repetitions, and has no word for once but to say nothing
            loop = {0: 0, 1: -1}.get(loop, loop - 1)
        self._settings = ANIMATES[ending].format(loop=loop).split()

    def __enter__(self):
        self._cleanup = ExitStack()
        self._temporary = self._cleanup.enter_context(files.atomic(self.path))
        self._said = self._cleanup.enter_context(tempfile.TemporaryFile())
        self._cleanup.callback(self._kill)
        return self

    def __exit__(self, *error):
        if error[0] is not None:
            return self._cleanup.__exit__(*error)
        with self._cleanup:
            self._finish()

    def add(self, frame):
        """Append one frame, anything that `to_pil` takes (numpy uint8 [H, W, 3] goes straight through)."""
        pixels = np.asarray(to_pil(frame))
        if self.size is None:
            self.size = pixels.shape[:2]
            self._start()
        if pixels.shape[:2] != self.size:
            (h, w), (h0, w0) = pixels.shape[:2], self.size
            raise ValueError(f"{self.path}: frame {self.count} is {w}x{h}, the first was {w0}x{h0}; all frames must be of one size")
        if self.path.suffix.lower() == ".mp4":
            pixels = np.pad(pixels, ((0, self.size[0] % 2), (0, self.size[1] % 2), (0, 0)), "edge")
        try:
            self._process.stdin.write(pixels.tobytes())
        except OSError:
            self._failed()
        self.count += 1

    def _start(self):
        try:
            import imageio_ffmpeg

            program = imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError):
            raise OSError(f"{self.path}: animations need ffmpeg: pip install imageio-ffmpeg") from None
        height, width = self.size
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
        raise OSError(f"{self.path}: ffmpeg failed: {words[-300:] or f'exit code {self._process.returncode}'}") from None

    def _finish(self):
        if self._process is None:
            raise ValueError(f"{self.path}: an animation of no frames")
        try:
            self._process.stdin.close()
        except OSError:
            self._failed()
        if self._process.wait():
            self._failed()

    def _kill(self):
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
