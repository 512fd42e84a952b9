"""The layers and the direction of imports, checked by parsing every module; and rules for all source files."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hdfast"

# Names, settings and file formats: standard library only.
BASE = {"errors", "tasks", "presets", "config", "method", "flags", "schedule", "scores", "jsonl", "durable",
        "fields", "alarms", "stopping"}
# Lowest first. A module may import from lower layers. A package (ops, envs) is one entry.
LAYERS = (
    BASE | {"ops"},
    {"nets", "harmonizer", "arena", "cuda_graph"},
    {"rssm"},
    {"world_model", "imagination", "actor_critic"},
    {"learner", "official"},
    {"agent"},
    {"machine", "checkpoint", "run_dir", "evaluation", "trainer", "dry_run", "doctor", "bench", "sweep", "distributed",
     "reproduce", "banner"},
    {"cli", "__main__", "__init__"},
)
# Layers whose modules may import one another. The parts of layer 3 meet only in the learner.
PEERS_ALLOWED = {0, 4, 6, 7}
# Beside the model: they know the base and third-party libraries, never the model; from the agent up all may use them.
SIDE = {"envs", "replay", "replay_ring", "replay_store", "rng", "logger", "progress", "visuals", "watch", "report",
        "sweep_ray"}
SIDE_USED_FROM = 5
# Libraries which cost a second or hundreds of megabytes: imported in these files only, inside a function.
HEAVY = {
    "envpool": {"envs/pool.py"},
    "ale_py": {"envs/ale.py"},
    "gymnasium": {"envs/gym.py"},
    "tensorboard": {"logger.py"},
    "rich": {"progress.py"},
    "ray": {"sweep_ray.py"},
    "matplotlib": {"visuals.py", "report/figures.py"},
    "PIL": {"visuals.py"},
    "imageio": {"visuals.py"},
    "safetensors": {"checkpoint.py"},
}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "torch.save"}
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


def own_imports(path: Path) -> set[str]:
    """Table entries which a file imports, itself left out."""
    found = set()
    for module, _ in imports(path):
        head, *rest = module.split(".")
        if head == "hdfast":
            is_module = rest and ((PACKAGE / f"{rest[0]}.py").exists() or (PACKAGE / rest[0]).is_dir())
            found.add(rest[0] if is_module else "__init__")
    return found - {entry(path)}


def refusal(source: str, target: str) -> str | None:
    """Why `source` may not import `target`, or None where it may."""
    for name in (source, target):
        if name not in NUMBER and name not in SIDE:
            return f"{name} stands in no layer"
    if source in BASE:
        return None if target in BASE else "the base imports the standard library and itself only"
    if source in SIDE:
        return None if target in BASE | SIDE else "modules beside the model import the base and each other only"
    if target in SIDE:
        return None if NUMBER[source] >= SIDE_USED_FROM else f"only layers from {SIDE_USED_FROM} up use it"
    if NUMBER[target] == NUMBER[source] and NUMBER[source] not in PEERS_ALLOWED:
        return f"modules of layer {NUMBER[source]} never import each other"
    if NUMBER[target] > NUMBER[source]:
        return f"layer {NUMBER[source]} may not import layer {NUMBER[target]}"
    return None


def test_every_module_has_a_place():
    unknown = sorted({entry(path) for path in SOURCES} - set(NUMBER) - SIDE)
    assert not unknown, (f"{unknown} stand in no layer: place them in LAYERS or SIDE at the top of "
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


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_third_party_imports(path):
    third_party = [(module.split(".")[0], inside) for module, inside in imports(path)
                   if module.split(".")[0] not in sys.stdlib_module_names | {"hdfast"}]
    wrong = []
    for library, inside in third_party:
        if entry(path) in BASE:
            wrong.append(f"{relative(path)} imports {library}, but may import the standard library only")
        elif library in HEAVY and relative(path) not in HEAVY[library]:
            wrong.append(f"{relative(path)} imports {library}, which only {sorted(HEAVY[library])} may do")
        elif library in HEAVY and not inside:
            wrong.append(f"{relative(path)} imports {library} at its top: move it into the function that needs it")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_is_unpickled_or_evaluated(path):
    wrong = [f"imports {module}" for module, _ in imports(path) if module.split(".")[0] in UNSAFE_MODULES]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) in UNSAFE_CALLS:
                wrong.append(f"line {node.lineno} calls {ast.unparse(node.func)}")
            if any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords):
                wrong.append(f"line {node.lineno} allows pickles")
    assert not wrong, f"{relative(path)}: {wrong}: a file from disk must never be able to run code"


def test_importing_hdfast_needs_nothing_but_python():
    program = "import sys; before = set(sys.modules); import hdfast; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded - sys.stdlib_module_names == {"hdfast"}


def test_files_are_short_and_well_named():
    sources = [path for folder in ("hdfast", "tests", "bench") for path in (ROOT / folder).rglob("*.py")]
    long = {str(path.relative_to(ROOT)): lines for path in sources
            if (lines := len(path.read_text().splitlines())) > 500}
    assert not long, f"over 500 lines, split by concept: {long}"
    vague = [str(path.relative_to(ROOT)) for path in sources if VAGUE_NAMES & {path.stem, path.parent.name}]
    assert not vague, f"names that say nothing about the content: {vague}"


def test_lines_fit():
    """At most 120 characters, as ruff holds Python to; rows of tables may be longer."""
    files = [path for path in ROOT.iterdir() if path.is_file()]
    files += [path for folder in ("docs", "bench", "cmake", "csrc", "tests") for path in (ROOT / folder).rglob("*")]
    files = [path for path in files if path.name == "Makefile"
             or path.suffix in {".md", ".sh", ".toml", ".cmake", ".txt", ".cpp", ".h", ".cuh", ".cu"}]
    assert len(files) > 100
    wrong = [f"{path.relative_to(ROOT)}:{number}" for path in files
             for number, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 120 and line[0] != "|"]
    assert not wrong


@pytest.mark.parametrize(("source", "target", "allowed"), [
    ("rssm", "nets", True), ("nets", "rssm", False), ("world_model", "imagination", False), ("learner", "envs", False),
    ("trainer", "evaluation", True), ("agent", "visuals", True), ("replay", "agent", False), ("envs", "config", True),
    ("nets", "harmonizer", False), ("config", "errors", True), ("agent", "cli", False), ("cli", "trainer", True),
    ("config", "ops", False), ("ops", "errors", True), ("replay", "envs", True), ("envs", "ops", False),
    ("report", "trainer", False)])
def test_the_rule_itself(source, target, allowed):
    assert (refusal(source, target) is None) == allowed


def test_imports_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "envs").mkdir()
    (tmp_path / "nets.py").touch()
    path = tmp_path / "envs" / "atari.py"
    path.write_text("from hdfast import nets, __version__\nfrom .. import nets\nfrom . import x\n"
                    "def f():\n    import envpool.python\n    from hdfast.nets import y\n")
    assert list(imports(path)) == [
        ("hdfast.nets", False), ("hdfast.__version__", False), ("hdfast.nets", False), ("hdfast.envs.x", False),
        ("envpool.python", True), ("hdfast.nets.y", True)]
    assert own_imports(path) == {"nets", "__init__"}
