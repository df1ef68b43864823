"""Who may import whom (see the arrows in README's "What is where"), and a few habits of the house, read from the sources.

commands -> editor.session -> editor.checkpoints -> the networks -> editor.fast_conv; nothing -> a command, except training, tests,
benchmarks and docs.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP = {path.stem: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in sorted(ROOT.glob("*.py"))}
EDITOR = {
    path.stem: ast.parse(path.read_text(encoding="utf-8"), str(path))
    for path in sorted((ROOT / "editor").glob("*.py"))
    if path.stem != "__init__"
}
TREES = TOP | EDITOR
NETWORKS = ["perceptual_model", "stylegan3_layers", "stylegan_layers"]


def is_script(tree):
    """Whether a module ends in `if __name__ == "__main__":`."""
    return any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in tree.body)


def words(nodes):
    """The plain strings among expressions."""
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


BY_NAME = ("import_module", "__import__", "run_path", "run_module")


def imports(tree):
    """The names of all modules that are imported, inside functions too: the first name, and for `editor` the module's."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.removeprefix("editor.").split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "editor":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").removeprefix("editor.").split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in BY_NAME:
            found |= {Path(word).stem for word in words(node.args)}
    return found


SCRIPTS = [name for name, tree in TOP.items() if is_script(tree)]
ARROWS = {  # what each module may import of ours; commands may import any of them
    "files": [],
    "settings": [],
    "stand_ins": [],
    "pickles": ["stand_ins"],
    "cli": ["settings", "checkpoints", "downloads", "landmarks"],  # --list, and defaults for --help
    "fast_conv": [],
    "filtered": ["fast_conv"],
    "stylegan_layers": ["fast_conv"],
    "stylegan3_layers": ["fast_conv", "filtered", "stylegan_layers"],
    "perceptual_model": ["fast_conv"],
    "networks": ["perceptual_model", "fast_conv"],
    "downloads": ["files"],
    "dialects": ["pickles"],
    "checkpoints": ["stylegan_layers", "stylegan3_layers", "perceptual_model", "networks", "downloads", "files", "pickles"],
    "images": ["files"],
    "results": ["files", "images"],
    "animation": ["files", "images"],
    "landmarks": ["downloads", "files"],
    "masks": ["images", "landmarks"],
    "classes": [],
    "motion": [],
    "tuning": ["checkpoints", "classes", "fast_conv", "files", "motion", "projection", "stylegan_layers"],
    "parallel": [],
    "folder": ["cli", "face", "files", "session"],
    "batches": [],
    "workers": ["batches", "checkpoints", "cli", "cluster", "session"],
    "cluster": ["batches", "cli", "files"],
    "foreign": ["pickles"],
    "face": ["files", "foreign", "pickles", "projection", "tuning"],
    "dragging": ["stylegan_layers"],
    "styles": ["classes", "tuning"],
    "boundaries": ["face", "files", "foreign", "downloads", "styles"],
    "scored": ["face", "files"],
    "claims": ["face", "files", "tuning"],
    "directions": ["boundaries", "styles"],
    "readings": ["boundaries", "checkpoints", "classes", "fast_conv", "images", "landmarks", "render", "session", "styles", "tuning"],
    "purify": ["boundaries", "directions", "readings", "styles"],
    "render": ["images", "face", "graphs", "tuning"],
    "coarse": ["checkpoints", "classes", "downloads", "files", "fast_conv"],
    "graphs": [],
    "projection": ["settings", "classes", "coarse", "fast_conv", "graphs", "perceptual_model"],
    "session": [
        "cli",
        "claims",
        "classes",
        "checkpoints",
        "perceptual_model",
        "face",
        "files",
        "settings",
        "projection",
        "tuning",
        "parallel",
        "images",
        "render",
        "landmarks",
        "motion",
    ],
}


def test_the_house_is_small():
    """At most seventeen files at the top, commands all but three, so that a file's place says whether it is run."""
    assert len(TOP) <= 17
    assert sorted(TOP) == sorted([*SCRIPTS, *NETWORKS])
    assert sorted(EDITOR) == sorted(ARROWS.keys() - set(NETWORKS)), "a new module needs its place in ARROWS"


@pytest.mark.parametrize("name", TREES)
def test_arrows(name):
    allowed = ARROWS.get(name, ARROWS)
    assert imports(TREES[name]) & TREES.keys() <= {*allowed, name}, f"{name} may import {', '.join(allowed) or 'none of ours'}"


def test_arrows_have_no_circle():
    left = {name: set(found) for name, found in ARROWS.items()}
    while left:
        free = [name for name, found in left.items() if not found & left.keys()]
        assert free, f"a circle among {', '.join(left)}"
        for name in free:
            del left[name]


def test_the_toolkit_needs_nothing_of_training_tests_and_benchmarks():
    for name, tree in TREES.items():
        assert not imports(tree) & {"training", "tests", "benchmarks", "docs", "pytest"}, name


def test_an_arrow_the_wrong_way_is_seen():
    tree = ast.parse("def f():\n    from encode_image import main\n    from editor import face\n    from editor.images import load\n"
                     "    import importlib\n    importlib.import_module('align_images')")  # fmt: skip
    assert imports(tree) == {"encode_image", "face", "images", "importlib", "align_images"}


# ---------------------------------------------------------------------------------------------------------------------
# Sizes, and what README says

MOST_LINES, MOST_OF_A_FUNCTION = 600, 60


def measured():
    """path -> (lines, syntax tree) of all Python of the project but its tests, whose tables may be long."""
    for part in ("", "editor", "training", "docs", "benchmarks"):
        for path in sorted((ROOT / part).glob("*.py")):
            text = path.read_text(encoding="utf-8")
            yield path.relative_to(ROOT), len(text.splitlines()), ast.parse(text)


def long_functions(tree):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in ast.walk(tree) if isinstance(node, kinds)}
    return {name: length for name, length in lengths.items() if length > MOST_OF_A_FUNCTION}


def test_no_file_and_no_function_is_too_long_to_read():
    files = {str(path): lines for path, lines, _ in measured() if lines > MOST_LINES}
    functions = {f"{path}: {name}": length for path, _, tree in measured() for name, length in long_functions(tree).items()}
    assert not files and not functions, f"more than {MOST_LINES} or {MOST_OF_A_FUNCTION} lines: {files | functions}"


def test_a_long_function_is_seen():
    body = "".join(f"    a{i} = 1\n" for i in range(60))
    assert long_functions(ast.parse(f"def f():\n{body}")) == {"f": 61}
    assert not long_functions(ast.parse("def f():\n" + body.replace("    a0 = 1\n", "")))


UNSAID = {"LICENSE", "Makefile", "README.md", "pyproject.toml", "requirements.txt", "requirements-dev.txt"}  # every project has them


def listed(text):
    """The names in the first column of the table under "What is where"."""
    section = re.search(r"\n## What is where\n(.*?)\n## ", text, re.S)[1]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("|") and "`" in line.split("|")[1]]
    return {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_the_table_in_readme_is_the_tree():
    there = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    if not there:
        pytest.skip("no git checkout")
    tree = {path.split("/")[0] for path in there if not path.startswith(".")} - UNSAID
    named = {name.split("/")[0] for name in listed((ROOT / "README.md").read_text(encoding="utf-8"))} - UNSAID
    assert named == tree, f"README lacks {sorted(tree - named)}, and names {sorted(named - tree)}"


HELP = """
import importlib, io, sys, contextlib
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "dlib", "scipy", "skimage", "sklearn", "lpips", "tqdm", "jinja2"):
            raise AssertionError(f"--help imports {name}")
sys.meta_path.insert(0, NoTorch())
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    for flag, expected in (("--help", f"python {name}.py"), ("--version", ".")):
        shown = io.StringIO()
        try:
            with contextlib.redirect_stdout(shown):
                importlib.import_module(name).main([flag])
            print(f"{name} {flag}: goes on")
        except SystemExit as ended:
            if ended.code or expected not in shown.getvalue():
                print(f"{name} {flag}: {ended.code}, {shown.getvalue()[:99]}")
        except AssertionError as error:
            print(f"{name}: {error}")
"""


@pytest.fixture(scope="module")
def answers():
    """What goes wrong with --help and --version, a line for each command."""
    done = subprocess.run([sys.executable, "-c", HELP, str(ROOT), *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_and_version_answer_without_torch(answers, name):
    """What takes seconds to import is imported when arguments have been read."""
    wrong = [line for line in answers if line.split()[0].rstrip(":") == name]
    assert not wrong


# ---------------------------------------------------------------------------------------------------------------------
# Habits


def calls(tree, *names):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in names]


@pytest.mark.parametrize("name", [n for n in ARROWS if n != "cli"])
def test_modules_never_print_or_exit(name):
    found = calls(TREES[name], "print", "sys.exit", "exit", "quit", "sys.stderr.write", "sys.stdout.write")
    assert not found, f"{name}.py:{found[0].lineno}"


def sources():
    return {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for path in [path for part in ("", "editor", "training", "docs", "benchmarks") for path in (ROOT / part).glob("*.py")]
    }


def test_files_are_never_unpickled():
    """torch.load and np.load can run what a file says; no call may let them."""
    for path, tree in sources().items():
        for call in calls(tree, "torch.load"):
            assert "weights_only=True" in ast.unparse(call), f"{path.name}:{call.lineno} lacks weights_only=True"
        for call in calls(tree, "np.load"):
            assert "allow_pickle=True" not in ast.unparse(call), f"{path.name}:{call.lineno}"
        assert not calls(tree, "pickle.load", "pickle.loads", "torch.hub.load", "eval", "exec", "os.system"), path.name


@pytest.mark.parametrize("name", SCRIPTS)
def test_docstrings_show_a_command(name):
    """A script's docstring opens with what it does and one command; --help shows it."""
    assert f"\n    python {name}.py" in (ast.get_docstring(TREES[name]) or "")
