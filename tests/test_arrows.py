"""Who may import whom (see the arrows in README's "What is where"), and a few habits of the house, read from the sources.

commands -> editor.session -> editor.checkpoints -> the networks -> editor.fast_conv; nothing -> a command, except training, tests,
benchmarks and docs.
"""

import ast
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
NETWORKS = ["perceptual_model", "stylegan_layers"]


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
    "pickles": [],
    "cli": [],
    "fast_conv": [],
    "stylegan_layers": ["fast_conv"],
    "perceptual_model": ["fast_conv"],
    "networks": ["perceptual_model", "fast_conv"],
    "downloads": ["files"],
    "checkpoints": ["stylegan_layers", "perceptual_model", "networks", "downloads", "files"],
    "images": ["files"],
    "animation": ["files", "images"],
    "landmarks": ["downloads"],
    "masks": ["images", "landmarks"],
    "face": ["files"],
    "boundaries": ["face", "files", "downloads"],
    "render": ["images", "face"],
    "projection": ["settings", "files", "fast_conv"],
    "session": ["checkpoints", "perceptual_model", "face", "files", "images", "settings", "fast_conv", "projection"],
}


def test_the_house_is_small():
    """At most fifteen files at the top, commands all but two, so that a file's place says whether it is run."""
    assert len(TOP) <= 15
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
        for path in [path for part in ("", "editor", "training", "docs") for path in (ROOT / part).glob("*.py")]
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


def flags_of(tree):
    """dest -> the call of add_argument."""
    found = {}
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("add_argument")]:
        named = [key.value.value for key in call.keywords if key.arg == "dest"]
        long = [word for word in words(call.args) if word.startswith("--")] or words(call.args)
        if long and not any(key.arg == "action" and ast.unparse(key.value) == "'version'" for key in call.keywords):
            found[(named or [long[0].lstrip("-").replace("-", "_")])[0]] = call
    return found


CLI = {f"cli.{node.name}": node for node in TREES["cli"].body if isinstance(node, ast.FunctionDef)}


def shared_flags(function):
    """The flags that a function of cli adds, itself or by another."""
    inner = [name for name in CLI if calls(CLI[function], name.removeprefix("cli."))]
    return set(flags_of(CLI[function])).union(*map(shared_flags, inner))


def attributes(nodes):
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


def test_shared_flags_are_found():
    assert shared_flags("cli.add_model_flags") == {"weight_file", "device", "precision", "seed", "quiet"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_flag_is_read(name):
    """A flag that nothing reads promises what does not happen."""
    tree = TREES[name]
    flags = flags_of(tree)
    inside = {id(node) for call in flags.values() for node in ast.walk(call)}
    nodes = [node for node in ast.walk(tree) if id(node) not in inside]
    used = [function for function in CLI if calls(tree, function)]
    read = attributes(nodes).union(words(nodes), *(attributes(ast.walk(CLI[function])) for function in used))
    shared = set().union(*map(shared_flags, used))
    unread = (flags.keys() | shared) - read - {"seed"}  # every script has --seed, also those that draw nothing at random
    assert not unread, f"flags that nothing reads: {', '.join(sorted(unread))}"
