"""One target under atheris, which is libFuzzer with the coverage of hdfast's own code:

    python tests/fuzz/python_target.py NAME FOLDER [libFuzzer's flags]

FOLDER takes the corpus (first the seeds) and the inputs that failed. Address space is limited: an allocation that a
file asks for and that does not fit raises MemoryError here, which no target permits.
"""

import resource
import sys
import tempfile
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 6 << 30  # bytes; torch and its libraries map two before anything is asked of them


def main() -> None:
    name, folder, *flags = sys.argv[1:]
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests" / "fuzz")]
    with atheris.instrument_imports(include=["hdfast"]):
        import targets
    import torch
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    corpus = Path(folder) / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(targets.TARGETS[name].seeds()):
        (corpus / f"seed-{i}").write_bytes(seed)
    places = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=places) as place:
        atheris.Setup([sys.argv[0], f"-artifact_prefix={folder}/", "-print_final_stats=1", *flags, str(corpus)],
                      lambda data: targets.run_once(name, data, Path(place)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
