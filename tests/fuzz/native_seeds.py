"""Seeds of the native target: the accepted calls of tests/native/raw_cases.py, in many sizes each, for harness.cpp.

    python tests/fuzz/native_seeds.py FOLDER [--large]     large: few, of sizes that are worth several threads
"""

import random
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
TYPES = (torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8,
         torch.uint8, torch.bool)
FLOATS = (0.0, 0.01, 0.5, 0.8, 0.95, 0.99, 0.999, 1.0, -1.0, 5.0, 95.0, 100.0, 101.0, 1e-8)
EDGES = (-1, -2, 1024)  # the first of decode.cpp's INTEGERS
LARGEST = {"LENGTH": 4, "BATCH": 40, "EMBED": 33, "ACTIONS": 18, "DETER": 40, "UNITS": 40, "STOCH": 8, "CLASSES": 40}
COUNT = 12  # of sizes: those of raw_cases.py, then chance
LARGE = (LARGEST | {"BATCH": 64, "EMBED": 96, "DETER": 256, "UNITS": 256, "STOCH": 32, "CLASSES": 32},
         LARGEST | {"LENGTH": 1, "BATCH": 1100, "DETER": 256, "STOCH": 32, "CLASSES": 32})
PACKED, MODE = 0x40, 0x82  # contiguous on the CPU; small numbers, and index 0


def encoded(value: object, schema: str) -> bytes:
    """One argument of a type of the op's schema."""
    if schema.endswith("?"):
        return b"\x00" if value is None else b"\x01" + encoded(value, schema[:-1])
    if schema.endswith("[]"):
        return bytes([len(value)]) + b"".join(encoded(one, schema[:-2]) for one in value)
    if schema == "Tensor":
        return bytes([TYPES.index(value.dtype), PACKED, MODE, value.dim()]) + b"".join(map(size, value.shape))
    if schema == "float":
        return bytes([min(range(len(FLOATS)), key=lambda i: abs(FLOATS[i] - value))])
    return bytes([192 + EDGES.index(value) if value in EDGES else int(value)])


def size(number: int) -> bytes:
    return bytes([number]) if number < 192 else b"\xff" + number.to_bytes(3, "little")


def main(folder: Path, large: bool) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "native"))
    import raw_cases

    from hdfast.ops import library
    if reason := library.problem():
        sys.exit(reason)
    folder.mkdir(parents=True, exist_ok=True)
    ops = torch.ops.hdfast
    names = sorted(name for family in library.families() for name in family.OPS)
    chance = random.Random(0)
    sizes = [{}] + [{name: chance.randint(1, most) for name, most in LARGEST.items()} for _ in range(COUNT - 1)]
    for number, some in enumerate(LARGE if large else sizes):
        for name, size in some.items():
            setattr(raw_cases, name, size)
        raw_cases.LATENT = raw_cases.STOCH * raw_cases.CLASSES
        for place, name in enumerate(names):
            op = getattr(ops, name).default
            given = [*raw_cases.CASES[name]()]
            given += [a.default_value for a in op._schema.arguments[len(given):]]
            types = [str(a.type).replace("Optional[Tensor]", "Tensor?").replace("List[Tensor]", "Tensor[]")
                     .replace("List[float]", "float[]").replace("List[int]", "int[]") for a in op._schema.arguments]
            (folder / f"{name}-{number}").write_bytes(
                bytes([0, place]) + b"".join(map(encoded, given, types)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--large" in sys.argv)
