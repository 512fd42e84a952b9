"""The commands of the README and of docs/ parse, their Python runs, and their files and anchors exist."""

import functools
import re
import shlex

import pytest

from hdfast import cli, ops
from programs import ROOT

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text()
         for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/README.md")]}


def blocks(language):
    """(page, code) of every block of a language."""
    return [(page, code) for page, text in PAGES.items()
            for code in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


def test_commands(monkeypatch):
    """Every `hdfast` line of a page is a command line that its verb accepts."""
    called = []

    def run(name, parsed):
        if cli.VERBS[name].with_settings:
            parsed.config()
        called.append(name)
        return 0

    for name, verb in cli.VERBS.items():
        monkeypatch.setitem(cli.VERBS, name, cli.replace(verb, run=functools.partial(run, name)))
    for page, code in blocks("bash"):
        for line in code.replace("\\\n", "").splitlines():
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
    for page in ("README.md", "docs/how_it_works.md"):
        for name in re.findall(r"`([\w/]+\.py)`", PAGES[page]):
            assert (ROOT / "hdfast" / name).exists() or (ROOT / name).exists(), (page, name)


def test_the_index_lists_every_page():
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")} - {"README.md"}
    assert pages <= set(re.findall(r"\]\(([^)#:]+)", PAGES["docs/README.md"]))


def test_the_walk_from_a_frame_to_a_gradient():
    """At most eight files, each named once; the names in them exist."""
    walk = PAGES["docs/how_it_works.md"].partition("## From a frame to a gradient")[2].partition("\n## ")[0]
    files = re.findall(r"`([\w/]+\.py)`", walk)
    assert 1 < len(files) <= 8 and len(set(files)) == len(files)
    for part in re.split(r"\n\d\. ", walk)[1:]:
        source = (ROOT / "hdfast" / re.search(r"`([\w/]+\.py)`", part)[1]).read_text()
        for kind, function in re.findall(r"`([A-Z]\w+)\.(\w+)`", part):
            assert f"class {kind}" in source and f"def {function}(" in source, (kind, function)


def test_anchors_that_they_name_exist():
    heads = {(ROOT / page).resolve(): {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-")
                                       for head in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
             for page, text in PAGES.items()}
    for page, text in PAGES.items():
        for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
            target = (ROOT / page).parent.joinpath(link).resolve() if link else (ROOT / page).resolve()
            assert anchor in heads[target], (page, link, anchor)
