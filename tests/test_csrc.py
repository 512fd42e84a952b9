"""The layers of csrc/: includes point down, torch stays in ops/, and kernels are launched through one macro."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
BELOW = {"device": {"device", "kernels/types.h"}, "kernels": {"device", "kernels"}, "cpu": {"device", "kernels", "cpu"},
         "ops": {"device", "kernels", "cpu", "ops"}, "host": {"host"}}
FILES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cuh", ".cu", ".cpp"))
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.MULTILINE)


# The only calls of the CUDA runtime: none allocates, copies or waits, which no graph could capture.
RUNTIME, LAUNCHING = re.compile(r"\b(cuda[A-Z]\w*)\s*\("), {"cudaGetLastError", "cudaGetErrorString",
                                                            "cudaLaunchCooperativeKernel"}


def launch_streams(code: str) -> list[str]:
    """The stream, fifth argument, of every HD_LAUNCH and HD_LAUNCH_COOP."""
    found = []
    for start in re.finditer(r"\bHD_LAUNCH(?:_COOP)?\(", code):
        depth, parts = 1, [""]
        for char in code[start.end():]:
            depth += (char in "([{") - (char in ")]}")
            if not depth:
                break
            parts = [*parts, ""] if char == "," and depth == 1 else [*parts[:-1], parts[-1] + char]
        found.append(parts[4].strip() if len(parts) > 4 else "")
    return found


def problems(layer: str, text: str) -> list[str]:
    """What a file of a layer includes or does against the rules."""
    found = []
    for kind, name in INCLUDE.findall(text):
        # A name without a folder is a file in this folder, or the generated build_info.h.
        if kind == '"' and "/" in name and not ({name, name.split("/")[0]} & BELOW[layer]):
            found.append(f"includes {name}")
        if name.startswith(("torch/", "ATen/", "c10/")) and layer != "ops":
            found.append(f"includes {name}: only ops/ includes torch headers")
    code = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    if "<<<" in code and layer != "device":
        found.append("launches with <<<>>>: use HD_LAUNCH")
    found += [f"calls {name}" for name in RUNTIME.findall(code) if layer != "device" or name not in LAUNCHING]
    if layer != "device":
        found += [f"launches on {stream!r}, not on the stream it is given" for stream in launch_streams(code)
                  if stream != "stream"]
    if layer == "kernels":
        found += [f"indexes in 32 bits: {line.strip()}" for line in code.splitlines()
                  if "blockIdx" in line and "int64_t" not in line and "[blockIdx.x]" not in line]
    if layer in ("kernels", "device") and re.search(r"\batomicAdd\s*\(\s*(?:\(float|reinterpret_cast<float)", code):
        found.append("adds floats atomically: sums must not depend on the order of blocks")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CSRC)))
def test_layers(path):
    assert problems(path.relative_to(CSRC).parts[0], path.read_text()) == []


def test_every_folder_has_its_place():
    assert {path.relative_to(CSRC).parts[0] for path in FILES} == set(BELOW)


def test_the_rules_can_fail():
    assert problems("kernels", '#include "ops/glue.h"') and problems("cpu", "#include <torch/library.h>")
    for line in ("cudaMalloc(&p, n);", "cudaStreamSynchronize(stream);", "HD_LAUNCH(k, (1, 2), 3, 0, nullptr, a);",
                 "const int n = blockIdx.x * 256;"):
        assert problems("kernels", line), line
    assert problems("kernels", "HD_LAUNCH((k<A, B>), grid(a, b), 3, 0, stream, a); const int64_t n = blockIdx.x;") == []
    assert problems("device", "cudaMemcpyAsync(a, b, n);") and not problems("device", "cudaGetLastError()")
    assert problems("kernels", "f<<<1, 2>>>(x);") and problems("device", '#include "cpu/simd.h"')
    assert problems("ops", '#include "kernels/adam.h"\n#include <torch/csrc/stable/library.h>') == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CSRC)))
def test_size(path):
    assert len(path.read_text().splitlines()) <= 400


MOST_ARGUMENTS = 12


def arguments(text: str) -> dict[str, int]:
    """The ops that a file of csrc/ops defines, with their number of arguments."""
    found = re.findall(r"^HD_OP\([\w<>]+, (\w+),\s*\(([^)]*)\)\)", text, re.MULTILINE)
    return {name: parameters.count(",") + 1 for name, parameters in found}


OPS = {path.stem: arguments(path.read_text()) for path in sorted((CSRC / "ops").glob("*.cpp"))}


@pytest.mark.parametrize("family", OPS)
def test_no_op_has_many_arguments(family):
    assert {name: count for name, count in OPS[family].items() if count > MOST_ARGUMENTS} == {}


def test_every_op_is_read():
    """The ops that the families of hdfast.ops name, and the ones in Python."""
    torch = pytest.importorskip("torch")
    from hdfast.ops import imagine, library, observe_scan  # noqa: F401  (they define ops)
    assert {name for family in OPS.values() for name in family} == {
        name for family in library.families_here() for name in family.OPS}
    here = {s.name: len(s.arguments) for s in torch._C._jit_get_all_schemas() if s.name.startswith("hdfast")}
    assert sum("_steps" in name or "_launches" in name for name in here) >= 3
    assert {name: count for name, count in here.items() if count > MOST_ARGUMENTS} == {}


def test_many_arguments_are_seen():
    parameters = "Outs x,\n       " + ", ".join(f"int64_t a{i}" for i in range(12))
    assert arguments(f"HD_OP(Results<2>, many,\n      ({parameters})) {{") == {"many": 13}


KERNELS = sorted(path.stem for path in (CSRC / "kernels").glob("*.cu"))


@pytest.mark.parametrize("family", KERNELS)
def test_every_family_has_a_planted_bug(family):
    """tests/cpp builds each as a program whose suite must fail."""
    headers = [CSRC / "kernels" / f"{family}{end}" for end in (".cuh", "_math.h")]
    assert any("HD_MUTATE(" in path.read_text() for path in headers if path.exists())
    assert (CSRC.parent / "tests/cpp" / f"{family}_test.cpp").exists()
