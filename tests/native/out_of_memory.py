"""Fails every allocation of every raw op once; prints how many failed per op. Runs with failing_new.cpp preloaded."""

import ctypes
import json
import re

import torch
from raw_cases import CASES

from hdfast.ops import library


def values(result) -> list:
    """The tensors of what an op returned."""
    return [x for x in (result if isinstance(result, (tuple, list)) else (result,)) if isinstance(x, torch.Tensor)]


SAID = re.compile(r"(\w+): out of memory: asked for .* and got none; use a smaller batch or network, or more memory")


def failures(name: str, make) -> int:
    """Call an op with its first allocation failing, then its second, until it succeeds; the number that failed."""
    op = getattr(ops, name)
    for n in range(10_000):
        torch.manual_seed(0)
        arguments = make()
        fail_after(n)
        try:
            got = op(*arguments)
        except RuntimeError as error:
            assert fail_after(-1) < 0, f"failed before its time: {error}"
            said = SAID.search(str(error))
            assert said and said.group(1) == name, f"{name}, allocation {n}: {error!r}"
        else:
            if fail_after(-1) >= 0:
                torch.manual_seed(0)
                assert all(torch.equal(a, b) for a, b in zip(values(got), values(op(*make())), strict=True)
                           if a.dtype not in (torch.float32, torch.bfloat16) or a.isfinite().all())
                return n
    raise AssertionError("never succeeded")


fail_after = ctypes.CDLL(None).hd_fail_after
fail_after.argtypes, fail_after.restype = [ctypes.c_long], ctypes.c_long
torch.set_num_threads(2)
assert library.problem() is None
ops = torch.ops.hdfast
print(json.dumps({name: failures(name, make) for name, make in CASES.items()}))
