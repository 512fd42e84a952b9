"""The committed digest of official figures; `python tests/support/golden_digest.py GOLDEN_DIR` makes it.

Parameters, observations, actions, normals and most uniforms follow from recipes (seeded numpy generators). The digest
stores only the rest: rewards, flags, redrawn uniforms, and the figures themselves: every scalar, every sampled index of
the update, and norm and projections of gradients, parameter changes and forward tensors. Of cases of continuous actions
or vectors it has less: no projections of gradients and parameter changes, and of updates only norms and the last one.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

from golden_case import Case, Runner, load_case, recipe_param
from parity_case import assert_official

PATH = Path(__file__).parents[1] / "golden" / "official_digest.json"
SOURCE = ("figures of the official HarmonyDream code (thuml/HarmonyDream, dreamerv3-jax, commit 0a22e33) run in "
          "float32 on a CPU with jax 0.4.13, categorical samples by inverse CDF from the uniforms given here")
FORWARD = ("wm/embed", "wm/post_deter", "wm/post_logit", "wm/prior_logit", "wm/recon", "wm/reward_logit",
           "wm/cont_logit", "wm/kl", "wm/loss_image", "wm/loss_reward", "wm/loss_cont", "imag/deter", "imag/logit",
           "imag/reward", "imag/value", "imag/ret", "imag/weight", "imag/adv", "imag/actor_logit", "imag/critic_logit",
           "imag/critic_nll", "imag/critic_reg", "policy0/deter", "policy1/deter", "policy1/logit")
# Of cases of continuous actions or vectors: forward tensors besides these, and what updates before the last one show.
MORE = ("wm/symlog_", "wm/loss_", "imag/action", "imag/actor_", "imag/logpi", "imag/ent", "policy1/a", "upd3/action")
BETWEEN = ("gradnorm", "retnorm", "harmony")


def inputs(sizes: dict) -> dict[str, np.ndarray]:
    """Observations and actions (zeroed later where is_last) by the recipe of the golden data."""
    b, t, a = (sizes[k] for k in "BTA")
    found, g = {}, np.random.Generator(np.random.PCG64(sizes["dseed"] + 2))
    for name, shape in sizes.get("obs", [["image", None]]):
        size = b, t, *(shape or ())
        found[name] = images(sizes).reshape(b, t, 64, 64, 3) if name == "image" else (
            g.standard_normal(size) * 10 ** g.uniform(-1, 1.5, size)).astype(np.float32)
    g = np.random.Generator(np.random.PCG64(sizes["dseed"] + 1))
    action = g.uniform(-1.6, 1.6, (b, t, a)) if sizes.get("continuous") else np.eye(a)[g.integers(0, a, (b, t))]
    return found | {"action": action.astype(np.float32)}


def images(sizes: dict) -> np.ndarray:
    """Every image of a batch, one after the other."""
    g = np.random.Generator(np.random.PCG64(sizes["dseed"]))
    yy, xx = np.mgrid[0:64, 0:64]
    found = []
    for _ in range(sizes["B"] * sizes["T"]):
        image = np.zeros((64, 64, 3)) + g.uniform(20, 120, 3)
        for _ in range(4):
            (cy, cx), s, color = g.uniform(0, 64, 2), g.uniform(3, 14), g.uniform(-120, 160, 3)
            image += np.exp(-((yy - cy) ** 2 + (xx - cx) ** 2) / (2 * s ** 2))[..., None] * color
        image += g.normal(0, 6, (64, 64, 3))
        found.append(np.clip(np.round(image), 0, 255).astype(np.uint8))
    return np.stack(found)


def base_uniforms(sizes: dict) -> dict[str, np.ndarray]:
    """The uniforms before any was redrawn."""
    b, t, h, s = (sizes[k] for k in ("B", "T", "H", "stoch"))
    shapes = {"post": (t, b, s), "prior": (h, b * t, s), "act": (h + 1, b * t), "policy_post": (2, b, s),
              "policy_act": (2, b)}
    g = np.random.Generator(np.random.PCG64(sizes["useed"]))
    return {name: g.random(shape, dtype=np.float32) for name, shape in shapes.items()
            if not (sizes.get("continuous") and name.endswith("act"))}


def normals(sizes: dict) -> dict[str, np.ndarray]:
    """The noise of continuous actions, which is never redrawn."""
    if not sizes.get("continuous"):
        return {}
    b, t, h, a = (sizes[k] for k in "BTHA")
    g = np.random.Generator(np.random.PCG64(sizes["useed"] + 1))
    return {key: g.standard_normal((2, b, a) if key == "n/policy_act" else (h + 1, b * t, a), dtype=np.float32)
            for key in ("n/act", "n/policy_act", "upd1/n/act", "upd2/n/act", "upd3/n/act")}


def uniform_chain(sizes: dict):
    """(key, key it starts from) of every uniform array: updates start from the arrays before them."""
    for name in base_uniforms(sizes):
        yield f"u/{name}", None
        if not name.startswith("policy"):
            for k in (1, 2, 3):
                yield f"upd{k}/u/{name}", f"upd{k - 1}/u/{name}" if k > 1 else f"u/{name}"


def names() -> list[str]:
    return list(json.loads(PATH.read_text())["cases"])


def load(name: str) -> tuple[Case, dict]:
    """A case rebuilt from recipes, and its official figures."""
    stored = json.loads(PATH.read_text())["cases"][name]
    sizes = stored["config"]
    params = {n: recipe_param(n, spec, sizes["pseed"]) for n, spec in stored["params"].items()}
    data = inputs(sizes) | {k: np.array(v, np.float32 if k == "reward" else bool) for k, v in stored["inputs"].items()}
    data["action"][data["is_last"]] = 0
    uniforms, base = {}, base_uniforms(sizes)
    for key, start in uniform_chain(sizes):
        array = (base[key[2:]] if start is None else uniforms[start]).copy()
        index, values = stored["redrawn"][key]
        array.flat[index] = np.array(values, np.float32)
        uniforms[key] = array
    case = Case(name, sizes, params, data, uniforms | normals(sizes))
    return case, {k: np.array(v) for k, v in stored["figures"].items()}


def checksum(key: str, value: np.ndarray) -> np.ndarray:
    """Norm and two random projections of an array, scaled to the size of its entries."""
    flat = np.asarray(value, np.float64).ravel()
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    return np.array([np.linalg.norm(flat), *(rng.standard_normal((2, flat.size)) @ flat)]) / np.sqrt(flat.size)


def reduce(figures: dict, wanted) -> dict:
    """The digest's view of full figures: checksums under 'sum/<key>', projections cut to the two stored ones."""
    out = {}
    for key in wanted:
        if key.startswith("sum/"):
            out[key] = checksum(key, figures[key[4:]])
        else:
            out[key] = figures[key][:2] if "_proj/" in key else figures[key]
    return out


def assert_digest(name: str, device: str = "cpu") -> None:
    """Compare our figures of a case with the official ones."""
    case, official = load(name)
    assert_official(reduce(Runner(case, device).all(), official), official)


def make(path: Path) -> dict:
    """Digest of one golden case."""
    case, official = load_case(path)
    spec = json.loads(path.with_name(f"{path.stem}.params.json").read_text())
    recipe, base, redrawn = inputs(case.sizes), base_uniforms(case.sizes), {}
    recipe["action"][case.inputs["is_last"]] = 0
    assert all(np.array_equal(recipe[k], case.inputs[k]) for k in recipe), "the recipe does not give the case's inputs"
    for key, start in uniform_chain(case.sizes):
        index = np.flatnonzero(case.noise[key] != (base[key[2:]] if start is None else case.noise[start]))
        redrawn[key] = [index.tolist(), [float(f"{x:.9g}") for x in case.noise[key].flat[index]]]
    drawn = redrawn.keys() | normals(case.sizes).keys()
    assert drawn == case.noise.keys(), drawn ^ case.noise.keys()
    assert all(np.array_equal(x, case.noise[k]) for k, x in normals(case.sizes).items()), "other normals"
    full = dict(official)
    for key, value in official.items():  # summaries that small cases do not store
        group, _, name = key.partition("/grad/")
        if name:
            full |= {f"{group}/{k}": v for k, v in Runner.summary("grad", name, value).items()}
        update, _, name = key.partition("/param/")
        if name and update.startswith("upd") and not name.endswith("/identity"):
            full |= {f"{update}/{k}": v for k, v in
                     Runner.summary("param_delta", name, value - case.params[name], entries=False).items()}
    figures, short = {}, "obs" in case.sizes
    for key, value in full.items():
        value = np.asarray(value)
        if key.startswith(("in/", "u/", "n/", "param/")) or "/u/" in key or "/n/" in key or "/identity" in key:
            continue
        if short and ("_proj/" in key or "_entries/" in key
                      or key.startswith(("upd1/", "upd2/")) and not key[5:].startswith(BETWEEN)):
            continue
        if "_proj/" in key:
            figures[key] = value[:2]
        elif value.ndim == 0 or key.startswith("upd") and key.endswith("index"):
            figures[key] = value
    more = (key for key in official if short and key.startswith(MORE) and "index" not in key)
    sums = [key for key in dict.fromkeys((*FORWARD, *more)) if key in official]
    figures |= {f"sum/{key}": checksum(f"sum/{key}", official[key]) for key in sums}
    rounded = {k: [float(f"{x:.9g}") for x in v] if v.dtype.kind == "f" and v.ndim else
               float(f"{v:.9g}") if v.dtype.kind == "f" else v.tolist() for k, v in figures.items()}
    return {"config": spec["config"],
            "params": {n: {k: s[k] for k in ("shape", "kind", "offset", "scale") if k in s}
                       for n, s in spec["params"].items()},
            "inputs": {k: v.tolist() for k, v in case.inputs.items() if k not in recipe},
            "redrawn": redrawn, "figures": rounded}


if __name__ == "__main__":
    paths = sorted(Path(sys.argv[1]).glob("*.npz")) + sorted(Path(sys.argv[1]).glob("continuous/*.npz"))
    cases = {path.stem: make(path) for path in paths if path.with_name(f"{path.stem}.params.json").exists()}
    text = json.dumps({"source": SOURCE, "cases": cases}, separators=(",", ":"))
    PATH.write_text(text.replace('},"', '},\n"') + "\n")
    print({name: len(case["figures"]) for name, case in cases.items()}, PATH.stat().st_size)
