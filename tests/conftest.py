"""What many tests share: the bundled generator, a command run as a person runs it, and arithmetic alike on every machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="session")
def G():
    """The bundled generator, on the CPU; read only."""
    from editor import checkpoints

    return checkpoints.load_generator()


@pytest.fixture(scope="session")
def run():
    """run("encode_image.py", *words, cwd=..., env=...) -> the finished process, with stdout and stderr as text."""

    def run(script, *words, cwd=ROOT, env=None, timeout=300):
        command = [sys.executable, str(ROOT / script), *map(str, words)]
        env = os.environ | ENVIRONMENT | (env or {})
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)

    return run
