"""The README's commands parse and its Python runs."""

import re
import shlex
from pathlib import Path

import pytest

from hdfast import cli

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_commands(monkeypatch):
    """Every `hdfast` line of the README is a command line that its verb accepts."""
    called = []
    for name, verb in cli.VERBS.items():
        monkeypatch.setitem(cli.VERBS, name, cli.replace(verb, run=lambda parsed, name=name: called.append(name) or 0))
    for line in "".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).splitlines():
        if line.startswith("hdfast "):
            assert cli.main(shlex.split(line.partition("#")[0])[1:]) == 0, line
    assert {"train", "eval", "configs", "doctor"} <= set(called)


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python(code, tmp_path, monkeypatch):
    """Every Python block of the README runs."""
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_files_that_it_names_exist():
    root = Path(__file__).parent.parent
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (root / link).exists(), link
    for name in re.findall(r"`(\w+\.py)`", README):
        assert (root / "hdfast" / name).exists(), name
