"""What a user's editor and type checker see of the public API: mypy on small programs, and annotations everywhere."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys

import pytest

import hdfast
from hdfast import ops
from programs import ROOT, python

# Every line is right, and says which type it has.
RIGHT = """
import torch
import hdfast

config = hdfast.Config.preset("debug", task="dummy", **{"run.steps": 200})
reveal_type(config)  # Config
reveal_type(config.run.batch_size)  # int
reveal_type(hdfast.train(config).load)  # def (device: str =, *, tag: str | None =) -> Agent
agent = hdfast.load("runs/dummy", "cpu")
reveal_type(agent)  # Agent
result = hdfast.evaluate(agent, episodes=2)
reveal_type(result)  # Evaluation
reveal_type(result.score_mean)  # float
reveal_type(hdfast.make_envs("pong", config.env))  # VectorEnv
logit = hdfast.ops.unimix(torch.randn(16, 32, 32), 0.01)
reveal_type(logit)  # Tensor
reveal_type(hdfast.ops.sample_latent(logit, torch.rand(16, 32)))  # tuple[Tensor, Tensor]
with hdfast.ops.use("reference"):
    reveal_type(hdfast.ops.backend())  # str
try:
    hdfast.train(config)
except (hdfast.ConfigError, hdfast.EnvError, hdfast.RunError) as error:
    reveal_type(str(error))  # str
"""
# Every line is wrong.
WRONG = """
hdfast.train()
hdfast.train("pong")
hdfast.load()
hdfast.load("runs/dummy", tag=1)
hdfast.evaluate(agent)
hdfast.evaluate(agent, 10)
hdfast.evaluate(agent, episodes="ten")
hdfast.make_envs("pong", config)
hdfast.ops.unimix(logit)
hdfast.ops.unimix(0.01, logit)
hdfast.ops.lambda_return(logit, logit, logit)
hdfast.ops.set_backend(1)
hdfast.ops.nonsense
hdfast.nonsense
"""


def test_mypy_on_a_users_program(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(RIGHT + WRONG)
    done = subprocess.run([sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"),
                           "--cache-dir", str(ROOT / ".mypy_cache"), str(program)],
                          cwd=tmp_path, env=os.environ | {"MYPYPATH": str(ROOT)}, capture_output=True, text=True)
    notes = dict(re.findall(r'^program.py:(\d+): note: Revealed type is "(.*)"$', done.stdout, re.MULTILINE))
    wanted = {str(number): line.partition("  # ")[2] for number, line in enumerate(RIGHT.splitlines(), 1)
              if line.strip().startswith("reveal_type")}
    assert {number: re.sub(r"\b[\w.]+\.(\w)", r"\1", found) for number, found in notes.items()} == wanted, done.stdout
    errors = {int(line) for line in re.findall(r"^program.py:(\d+): error: ", done.stdout, re.MULTILINE)}
    first = len(RIGHT.splitlines()) + 2
    assert errors == set(range(first, first + len(WRONG.strip().splitlines()))), done.stdout


def public_functions():
    """(name, function) of every public function, and of every method of a public class."""
    for module in (hdfast, ops):
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isclass(found):
                yield from ((f"{name}.{method}", function) for method, function in vars(found).items()
                            if inspect.isfunction(function) and not method.startswith("_"))
            elif inspect.isfunction(found):
                yield name, found


@pytest.mark.parametrize(("name", "function"), list(public_functions()))
def test_public_functions_have_types_and_a_docstring(name, function):
    signature = inspect.signature(function)
    untyped = [p.name for p in signature.parameters.values()
               if p.annotation is p.empty and p.default is p.empty and p.name != "self"]
    assert not untyped and signature.return_annotation is not signature.empty
    assert function.__doc__


def test_public_classes_have_a_docstring_of_their_own():
    """Not the one that dataclass makes of the fields."""
    kinds = [kind for kind in (getattr(hdfast, name) for name in hdfast.__all__) if inspect.isclass(kind)]
    kinds += [rule.default_factory for rule in dataclasses.fields(hdfast.Config) if callable(rule.default_factory)]
    assert len(kinds) == 16
    assert not [kind for kind in kinds if not kind.__doc__ or kind.__doc__.startswith(kind.__name__)]


@pytest.mark.parametrize("name", ops.CONTROLS)
def test_the_stub_of_a_control_has_its_signature(name):
    stub = (ROOT / "hdfast" / "ops" / "__init__.pyi").read_text()
    written, = re.findall(rf"^def {name}\((.*)\) ->", stub, re.MULTILINE)
    real = str(inspect.signature(getattr(ops, name))).partition(" ->")[0][1:-1].replace("'", '"')
    assert written == real


def test_dir_lists_the_public_names():
    program = "import hdfast, hdfast.config; print(dir(hdfast) == sorted(hdfast.__all__))"
    assert python("-c", program).stdout.strip() == "True"
    assert re.findall(r"\"(\w+)\"", (ROOT / "hdfast" / "__init__.pyi").read_text()) == dir(hdfast)
