"""What the JSON of a run may hold: a checkpoint's manifest, meta.json. Standard library only.

A kind is (what is expected, in words; whether a value is that), or {field: kind} for an object, which may hold more,
or [kind] for a list. A field whose name ends in ? may be null or missing.
"""

from typing import Any

from hdfast.run.jsonl import RECORDS, is_number


def whole(limit: int) -> tuple:
    return f"a whole number from 0 to {limit - 1}", lambda x: type(x) is int and 0 <= x < limit


COUNT, WORD = whole(10**12), whole(2**32)
NUMBER = "a finite number", is_number
SECONDS = "a finite number, 0 or more", lambda x: is_number(x) and x >= 0
TEXT = "a text", lambda x: isinstance(x, str)
OBJECT = "an object", lambda x: isinstance(x, dict)
CHECKPOINT = {"step": COUNT, "bytes": COUNT, "sha256": TEXT, "manifest": OBJECT}
MANIFEST = {
    "step": COUNT, "updates": COUNT, "episodes": COUNT, "evaluated": COUNT,
    "best_score?": NUMBER, "best_eval?": NUMBER, "last_score?": NUMBER,
    "replay": OBJECT, "replay_rng": TEXT, "config?": OBJECT,
    "prefill_rng": {"bit_generator": ("'PCG64'", lambda x: x == "PCG64"), "has_uint32": whole(2), "uinteger": WORD,
                    "state": {"state": whole(2**128), "inc": whole(2**128)}},
    "records?": {f"{name}?": {"bytes": COUNT, "crc": WORD} for name in RECORDS}}
REPLAY = {"format": COUNT, "steps": COUNT, "oldest": COUNT,
          "chunks": [{"name": TEXT, "first": COUNT, "records": COUNT, "crc": WORD, "format?": COUNT}]}
START = {"argv?": [TEXT], "time?": TEXT, "host?": TEXT, "status?": TEXT, "seconds?": SECONDS, "cpu_seconds?": SECONDS,
         "pid?": COUNT, "step?": COUNT, "torch_threads?": COUNT, "versions?": OBJECT}
META = {"method?": TEXT, "status?": TEXT, "finished?": COUNT, "seconds?": SECONDS, "cpu_seconds?": SECONDS,
        "forgotten_seconds?": SECONDS, "forgotten_cpu_seconds?": SECONDS, "starts?": [START]}


def wrong(found: Any, kind: Any, name: str = "") -> str:
    """The first value that is not of its kind, as "NAME is VALUE, expected ...", or ''."""
    if isinstance(kind, dict) and isinstance(found, dict):
        inside = [(f"{name}.{field}".lstrip("."), found.get(field), one) for key, one in kind.items()
                  if (field := key.rstrip("?")) == key or found.get(field) is not None]
    elif isinstance(kind, list) and isinstance(found, list):
        inside = [(f"{name}[{number}]", one, kind[0]) for number, one in enumerate(found)]
    else:
        expected, holds = kind if isinstance(kind, tuple) else (
            "an object" if isinstance(kind, dict) else "a list", lambda _: False)
        return "" if holds(found) else f"{name or 'it'} is {found!r:.60}, expected {expected}"
    return next(filter(None, (wrong(one, of, where) for where, one, of in inside)), "")
