"""The layers and the direction of imports, checked by parsing every module; and rules for all source files."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

from programs import ROOT, python

PACKAGE = ROOT / "hdfast"

# The ground: names and settings, standard library only, and spaces, which numpy may help.
GROUND = {"errors", "tasks", "presets", "config", "flags", "protocol", "scores", "paths", "spaces", "processor"}
# Lowest first. A module may import from lower layers. A room (ops, model, run) is one entry.
LAYERS = (
    GROUND | {"ops"},
    {"model", "arena", "cuda_graph"},
    {"tape"},
    {"learner"},
    {"agent", "adapters"},
    {"evaluation", "distributed", "estimate"},
    {"trainer"},
    {"commands", "bench"},
    {"cli", "__main__", "__init__"},
)
# Layers whose modules may import one another.
PEERS_ALLOWED = {0, 8}
# Beside the model: these know the ground and third-party libraries, never the model; layers from the agent up use them.
SIDE = {"envs", "replay", "run", "report", "machine", "rng"}
SIDE_USED_FROM = 4
KNOWS_OPS = {"machine"}  # of them
# The order inside the model, by file; the files of the last set meet only in the learner.
MODEL = ({"nets", "harmonizer"}, {"encoders", "rssm", "policy"}, {"world_model", "imagination", "actor_critic"})
# Files of rooms that `config`, `cli`, `watch` and `sweep` need; those start without torch: standard library only.
PLAIN = {"run/__init__.py", "run/durable.py", "run/jsonl.py", "run/fields.py", "run/alarms.py", "run/stopping.py",
         "run/settings.py", "commands/__init__.py"}
# Libraries that cost a second or hundreds of megabytes: imported in these files only, inside a function.
HEAVY = {
    "envpool": {"envs/pool.py"},
    "ale_py": {"envs/ale.py"},
    "gymnasium": {f"envs/{name}.py" for name in ("gym", "gate", "actions", "dmc", "metaworld")},
    "dm_control": {"envs/dmc.py"},
    "metaworld": {"envs/metaworld.py"},
    "tensorboard": {"run/logger.py"},
    "wandb": {"run/trackers.py"},
    "mlflow": {"run/trackers.py"},
    "rich": {"run/progress.py"},
    "ray": {"commands/sweep_ray.py"},
    "matplotlib": {"run/pictures.py", "report/figures.py"},
    "PIL": {"run/pictures.py", "envs/background.py"},
    "imageio": {"run/pictures.py", "envs/background.py"},
    "safetensors": {"run/checkpoint.py"},
}
VAGUE_NAMES = {"utils", "util", "tools", "common", "misc", "helpers"}

SOURCES = sorted(PACKAGE.rglob("*.py"))
NUMBER = {name: i for i, layer in enumerate(LAYERS) for name in layer}


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def entry(path: Path) -> str:
    """Table entry of a source file: `nets` for nets.py, `envs` for everything under envs/."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path):
    """(dotted module, inside a function) of every import statement; `from a import b` gives a.b."""
    tree = ast.parse(path.read_text(), str(path))
    inside = {child for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
              for child in ast.walk(node)}
    package = ("hdfast", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{module}.{alias.name}", node in inside) for alias in node.names)


def files_imported(path: Path) -> set[str]:
    """Files of the package that a file imports, by their path in it."""
    found = set()
    for module, _ in imports(path):
        head, *names = module.split(".")
        places = [PACKAGE.joinpath(*names[:count]) for count in range(len(names), -1, -1)] if head == "hdfast" else []
        files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
        found.update(relative(file) for file in [file for file in files if file.exists()][:1])
    return found


def own_imports(path: Path) -> set[str]:
    """Table entries that a file imports, without its own."""
    return {entry(PACKAGE / name) for name in files_imported(path)} - {entry(path)}


def refusal(source: str, target: str) -> str | None:
    """Why `source` may not import `target`, or None if it may."""
    for name in (source, target):
        if name not in NUMBER and name not in SIDE:
            return f"{name} is in no layer"
    if source in GROUND:
        return None if target in GROUND else "the ground imports the standard library and itself only"
    if source in SIDE:
        allowed = target in GROUND | SIDE or (source in KNOWS_OPS and target == "ops")
        return None if allowed else "modules beside the model import the ground and each other only"
    if target in SIDE:
        return None if NUMBER[source] >= SIDE_USED_FROM else f"only layers from {SIDE_USED_FROM} up use it"
    if NUMBER[target] == NUMBER[source] and NUMBER[source] not in PEERS_ALLOWED:
        return f"modules of layer {NUMBER[source]} never import each other"
    if NUMBER[target] > NUMBER[source]:
        return f"layer {NUMBER[source]} may not import layer {NUMBER[target]}"
    return None


def test_every_module_has_a_place():
    unknown = sorted({entry(path) for path in SOURCES} - set(NUMBER) - SIDE)
    assert not unknown, (f"{unknown} are in no layer: place them in LAYERS or SIDE at the top of "
                         f"{Path(__file__).name} and in the table of CONTRIBUTING.md")


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_point_downward(path):
    wrong = [f"{relative(path)} imports {target}: {why}" for target in sorted(own_imports(path))
             if (why := refusal(entry(path), target))]
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles():
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        if relative(path) != "__init__.py":  # the public names, loaded on first use
            graph.setdefault(entry(path), set()).update(own_imports(path) - {"__init__"})
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError naming the modules


def is_plain(path: Path) -> bool:
    """Whether a file imports the standard library only."""
    return entry(path) in GROUND - {"spaces"} or relative(path) in PLAIN


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_third_party_imports(path):
    third_party = [(module.split(".")[0], inside) for module, inside in imports(path)
                   if module.split(".")[0] not in sys.stdlib_module_names | {"hdfast"}]
    wrong = []
    for library, inside in third_party:
        if is_plain(path):
            wrong.append(f"{relative(path)} imports {library}, but may import the standard library only")
        elif library in HEAVY and relative(path) not in HEAVY[library]:
            wrong.append(f"{relative(path)} imports {library}, which only {sorted(HEAVY[library])} may do")
        elif library in HEAVY and not inside:
            wrong.append(f"{relative(path)} imports {library} at its top: move it into the function that needs it")
    assert not wrong, "\n".join(wrong)


def test_importing_hdfast_needs_nothing_but_python():
    program = "import sys; before = set(sys.modules); import hdfast; print(*sorted(set(sys.modules) - before))"
    loaded = {name.split(".")[0] for name in python("-c", program).stdout.split()}
    assert loaded - sys.stdlib_module_names == {"hdfast"}


def test_files_are_short_and_well_named():
    sources = [path for folder in ("hdfast", "tests", "bench") for path in (ROOT / folder).rglob("*.py")]
    long = {str(path.relative_to(ROOT)): lines for path in sources
            if (lines := len(path.read_text().splitlines())) > 500}
    assert not long, f"over 500 lines, split by concept: {long}"
    vague = [str(path.relative_to(ROOT)) for path in sources if VAGUE_NAMES & {path.stem, path.parent.name}]
    assert not vague, f"names that say nothing about the content: {vague}"


def test_lines_fit():
    """At most 120 characters, as ruff demands of Python; rows of tables may be longer."""
    files = [path for path in ROOT.iterdir() if path.is_file()]
    files += [path for folder in ("docs", "bench", "cmake", "csrc", "tests") for path in (ROOT / folder).rglob("*")]
    files = [path for path in files if path.name == "Makefile"
             or path.suffix in {".md", ".sh", ".toml", ".cmake", ".txt", ".cpp", ".h", ".cuh", ".cu"}]
    assert len(files) > 100
    wrong = [f"{path.relative_to(ROOT)}:{number}" for path in files
             for number, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 120 and line[0] != "|"]
    assert not wrong


@pytest.mark.parametrize(("source", "target", "allowed"), [
    ("model", "ops", True), ("ops", "model", False), ("model", "learner", False), ("learner", "envs", False),
    ("trainer", "evaluation", True), ("agent", "run", True), ("replay", "agent", False), ("envs", "config", True),
    ("model", "arena", False), ("config", "errors", True), ("agent", "cli", False), ("cli", "trainer", True),
    ("config", "ops", False), ("ops", "errors", True), ("replay", "run", True), ("envs", "ops", False),
    ("report", "trainer", False), ("trainer", "commands", False), ("run", "agent", False), ("run", "machine", True),
    ("machine", "ops", True), ("run", "ops", False), ("spaces", "envs", False), ("model", "run", False)])
def test_the_rule_itself(source, target, allowed):
    assert (refusal(source, target) is None) == allowed


def test_imports_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "envs").mkdir()
    (tmp_path / "nets.py").touch(), (tmp_path / "__init__.py").touch()
    path = tmp_path / "envs" / "atari.py"
    path.write_text("from hdfast import nets, __version__\nfrom .. import nets\nfrom . import x\n"
                    "def f():\n    import envpool.python\n    from hdfast.nets import y\n")
    assert list(imports(path)) == [
        ("hdfast.nets", False), ("hdfast.__version__", False), ("hdfast.nets", False), ("hdfast.envs.x", False),
        ("envpool.python", True), ("hdfast.nets.y", True)]
    assert own_imports(path) == {"nets", "__init__"}


@pytest.mark.parametrize("path", [path for path in SOURCES if relative(path) in PLAIN], ids=relative)
def test_plain_files_import_plain_files(path):
    wrong = [name for name in files_imported(path) if not is_plain(PACKAGE / name)]
    assert not wrong, f"{relative(path)} imports {wrong}, which may import more than the standard library"


def test_the_order_inside_the_model():
    place = {f"model/{name}.py": number for number, names in enumerate(MODEL) for name in names}
    own = {relative(path) for path in SOURCES if entry(path) == "model"} - {"model/__init__.py"}
    assert own == set(place), "give a new file of model/ its place in MODEL"
    wrong = [f"{name} imports {target}" for name in sorted(own) for target in sorted(files_imported(PACKAGE / name))
             if target in place and place[target] >= place[name]]
    assert not wrong, "\n".join(wrong)


def test_rooms_keep_their_walls():
    assert not (PACKAGE / "run" / "__init__.py").read_text(), "what run/ imports there, `watch` would import too"
    inside = [path.name for path in (PACKAGE / "ops").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert not inside, "the loader looks for families in one flat folder"
    assert len(list(PACKAGE.glob("*.py"))) <= 24, "put a new file in its room"


def test_what_starts_without_torch():
    program = "import sys, hdfast.config, hdfast.cli, hdfast.commands.watch; sys.exit('torch' in sys.modules)"
    python("-c", program)


def test_no_test_module_imports_another():
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [
                alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith("test_") for name in names), f"{path}: put what it takes in tests/support"
