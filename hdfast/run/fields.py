"""What the fields of a checkpoint's manifest and of meta.json may hold. Standard library only."""

from collections.abc import Callable, Mapping
from typing import Any

from hdfast.run.jsonl import is_number

COUNT_LIMIT = 10**12
Kind = tuple[str, Callable[[Any], bool]]  # what is expected, in words, and whether a value is that


def whole(limit: int) -> Kind:
    return f"a whole number from 0 to {limit - 1}", lambda x: type(x) is int and 0 <= x < limit


def either(kind: Kind) -> Kind:
    """Of this kind, or null or missing."""
    return f"{kind[0]}, or null", lambda x: x is None or kind[1](x)


def record(kinds: Mapping[str, Kind]) -> Kind:
    """An object whose fields are of these kinds; others may stand there too."""
    return (f"an object with {', '.join(f'{name} ({kind[0]})' for name, kind in kinds.items())}",
            lambda x: isinstance(x, dict) and not wrong(x, kinds))


COUNT, SCORE = whole(COUNT_LIMIT), either(("a finite number", is_number))
SECONDS: Kind = "a finite number, 0 or more", lambda x: is_number(x) and x >= 0
TEXT: Kind = "a text", lambda x: isinstance(x, str)
OBJECT: Kind = "an object", lambda x: isinstance(x, dict)
PCG64 = record({
    "bit_generator": ("'PCG64'", lambda x: x == "PCG64"), "has_uint32": whole(2), "uinteger": whole(2**32),
    "state": record({"state": whole(2**128), "inc": whole(2**128)})})
MARK = record({"bytes": COUNT, "crc": whole(2**32)})
MANIFEST = {
    "step": COUNT, "updates": COUNT, "episodes": COUNT, "evaluated": COUNT, "best_score": SCORE, "best_eval": SCORE,
    "last_score": SCORE, "replay": OBJECT, "replay_rng": TEXT, "prefill_rng": PCG64, "config": either(OBJECT),
    "records": either((f"an object of {MARK[0]}", lambda x: isinstance(x, dict) and all(map(MARK[1], x.values()))))}
START = {"argv": either(("a list of texts", lambda x: isinstance(x, list) and all(map(TEXT[1], x)))),
         **dict.fromkeys(("time", "host", "status"), either(TEXT)),
         **dict.fromkeys(("seconds", "cpu_seconds"), either(SECONDS)),
         **dict.fromkeys(("pid", "step", "torch_threads"), either(COUNT)), "versions": either(OBJECT)}
META = {"method": either(TEXT), "status": either(TEXT), "finished": either(COUNT),
        **dict.fromkeys(("seconds", "cpu_seconds", "forgotten_seconds", "forgotten_cpu_seconds"), either(SECONDS)),
        "starts": either(("a list of objects", lambda x: isinstance(x, list) and all(map(OBJECT[1], x))))}


def wrong(found: Mapping[str, Any], kinds: Mapping[str, Kind]) -> str:
    """The first field that is not of its kind, as "NAME is VALUE, expected ...", or ''."""
    return next((f"{name} is {found.get(name)!r:.60}, expected {expected}" for name, (expected, holds) in kinds.items()
                 if not holds(found.get(name))), "")
