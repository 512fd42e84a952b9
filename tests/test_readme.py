"""The commands of the README and of docs/ parse, their Python runs, and what they name is there."""

import re
import shlex
from pathlib import Path

import pytest

from hdfast import cli, ops

ROOT = Path(__file__).parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}


def blocks(language):
    """(page, code) of every block of a language."""
    return [(page, code) for page, text in PAGES.items()
            for code in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


def test_commands(monkeypatch):
    """Every `hdfast` line of a page is a command line that its verb accepts."""
    called = []
    for name, verb in cli.VERBS.items():
        monkeypatch.setitem(cli.VERBS, name, cli.replace(verb, run=lambda parsed, name=name: called.append(name) or 0))
    for page, code in blocks("bash"):
        for line in code.splitlines():
            if line.startswith("hdfast "):
                assert cli.main(shlex.split(re.split("[#|]", line)[0])[1:]) == 0, (page, line)
    assert set(called) == set(cli.VERBS)


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python(page, code, tmp_path, monkeypatch):
    """Every Python block runs."""
    monkeypatch.chdir(tmp_path)
    with ops.use("auto"):
        exec(compile(code, page, "exec"), {})


def test_files_that_they_name_exist():
    for page, text in PAGES.items():
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (ROOT / page).parent.joinpath(link).exists(), (page, link)
    for name in re.findall(r"`([\w/]+\.py)`", PAGES["README.md"]):
        assert (ROOT / "hdfast" / name).exists() or (ROOT / name).exists(), name


def test_anchors_that_they_name_exist():
    heads = {(ROOT / page).resolve(): {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-")
                                       for head in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
             for page, text in PAGES.items()}
    for page, text in PAGES.items():
        for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
            target = (ROOT / page).parent.joinpath(link).resolve() if link else (ROOT / page).resolve()
            assert anchor in heads[target], (page, link, anchor)
