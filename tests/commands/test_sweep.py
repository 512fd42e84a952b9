"""`hdfast sweep`: which runs it plans, and what it does when one ends; without Ray."""

import json
import os
import sys

import pytest

from checkout import ROOT
from hdfast import cli
from hdfast.commands import sweep
from hdfast.commands.sweep_ray import Ending
from hdfast.errors import ConfigError, RunError
from hdfast.flags import parse
from hdfast.tasks import ATARI26
from programs import python
from watch_case import make_run, rows

# The plan

def plan(tmp_path, *, presets=("debug",), tasks=("pong",), seeds=("0",), **settings):
    return sweep.plan(presets, {"logdir": str(tmp_path)} | settings, tasks, seeds)


def test_the_plan_is_tasks_times_seeds(tmp_path):
    jobs = plan(tmp_path, tasks=("pong", "Breakout-v5", "atari_pong"), seeds=("0-1", "7", "1"), **{"run.steps": 300})
    assert [(job.config.task, job.config.seed) for job in jobs] == [
        (task, seed) for seed in (0, 1, 7) for task in ("atari_pong", "atari_breakout")]
    assert jobs[3].logdir == tmp_path / "atari_breakout" / "1" and jobs[3].config.run.steps == 300
    for job in jobs:  # the command of every run says the same as its configuration
        verb, *words = job.arguments
        assert verb == "train" and parse(words, cli.TrainFlags, with_settings=True).config() == job.config
    assert tuple(job.config.task for job in plan(tmp_path, tasks=("atari26",))) == ATARI26


def test_every_kind_of_value_reaches_the_run(tmp_path):
    settings = {"run.eval_random": True, "optim.model_lr": 1e-05, "harmony.mode": "plain", "run.train_ratio": 7.5}
    (job,) = plan(tmp_path, tasks=(), presets=("catch", "baseline"), **settings)
    words = job.arguments[1:]
    assert parse(words, cli.TrainFlags, with_settings=True).config() == job.config
    assert job.config.flat().items() >= settings.items() and job.config.task == "catch_5x5"


@pytest.mark.parametrize(("given", "says"), [
    ({"task": "pong"}, "--tasks"), ({"seed": 3}, "--seeds"), ({"seeds": ("4-2",)}, "'4-2'"), ({"seeds": ("x",)}, "'x'"),
    ({"tasks": ("nope",)}, "unknown task"), ({"logdir": "a/{timestamp}"}, "timestamp"),
    ({"logdir": "a/{task}", "seeds": ("0-1",)}, "same for several"), ({"run.steps": 3}, "run.prefill")])
def test_what_cannot_be_planned(tmp_path, given, says):
    with pytest.raises(ConfigError, match=says):
        plan(tmp_path, **given)


def test_runs_with_other_settings_are_refused_before_anything_starts(tmp_path):
    make_run(tmp_path / "atari_pong" / "0", "finished", finished=400, **{"run.batch_size": 5})
    with pytest.raises(ConfigError, match=r"run\.batch_size \(there 5, now 4\)"):
        plan(tmp_path, seeds=("0-1",))


# What happens when a run ends

class Script:
    """A scheduler that ends jobs as the script says: [(seed, exit code or reason), ...]."""

    def __init__(self, jobs, script=()):
        self.jobs, self.script, self.started = jobs, list(script), []

    def start(self, key, arguments, logdir):
        self.started.append(key.config.seed)

    def ended(self, timeout):
        seed, how = self.script.pop(0)
        (job,) = (job for job in self.jobs if job.config.seed == seed)
        if how == 0:
            make_run(job.logdir, "finished", finished=400, rows=rows([1, 400]))
        return [(job, Ending(how) if isinstance(how, int) else Ending(None, how))]


def play(tmp_path, script, *, seeds=("0-2",), retries=1):
    scheduler = Script(plan(tmp_path, seeds=seeds), script)
    runs = sweep.Sweep(scheduler.jobs, scheduler, retries=retries)
    failed = [job.config.seed for job in runs.run()]
    assert not scheduler.script
    return scheduler.started, failed, runs


def test_a_failed_run_is_reported_and_stops_nobody(tmp_path, capsys):
    folder = tmp_path / "atari_pong" / "1"
    folder.mkdir(parents=True)
    (folder / "output.log").write_text("".join(f"line {i}\n" for i in range(40)))
    started, failed, runs = play(tmp_path, [(1, 1), (0, 0), (2, 0)])
    assert (started, failed) == ([0, 1, 2], [1])
    out = capsys.readouterr().out
    assert "atari_pong, seed 1: failed (exit code 1); the end of" in out and "line 39" in out and "line 24" not in out
    title, table = runs.summary()
    assert title == "3 runs: 1 failed, 2 finished" and [row[2] for row in table] == ["failed", "finished", "finished"]


@pytest.mark.parametrize("how", [-9, 137, 143, "WorkerCrashedError", "NodeDiedError"])
def test_what_was_killed_is_started_again_so_many_times(tmp_path, how, capsys):
    assert play(tmp_path / "a", [(0, how), (0, 0)], seeds=("0",))[:2] == ([0, 0], [])
    assert "started again, retry 1 of 1" in capsys.readouterr().out
    assert play(tmp_path / "b", [(0, how), (0, how), (1, 0)], seeds=("0-1",))[:2] == ([0, 1, 0], [0])
    assert play(tmp_path / "c", [(0, how)], seeds=("0",), retries=0)[:2] == ([0], [0])


@pytest.mark.parametrize("code", [1, 2])
def test_what_failed_by_itself_is_not_started_again(tmp_path, code):
    assert play(tmp_path, [(0, code)], seeds=("0",))[:2] == ([0], [0])


def test_an_end_without_a_finished_run_is_no_success(tmp_path):
    script = Script(plan(tmp_path))
    script.ended = lambda timeout: [(script.jobs[0], Ending(0))]
    assert sweep.Sweep(script.jobs, script, retries=1).run() == script.jobs


def test_a_run_that_reached_its_time_limit_is_neither_failed_nor_started_again(tmp_path, capsys):
    script = Script(plan(tmp_path, **{"run.max_seconds": 5.0}))

    def ended(timeout):
        make_run(tmp_path / "atari_pong" / "0", "stopped by run.max_seconds", rows=rows([1, 100]))
        return [(script.jobs[0], Ending(0))]

    script.ended = ended
    runs = sweep.Sweep(script.jobs, script, retries=1)
    assert runs.run() == [] and script.started == [0] and runs.summary()[1][0][2] == "stopped"
    assert "saved at step 100 after run.max_seconds" in capsys.readouterr().out


def test_finished_runs_are_not_started(tmp_path):
    make_run(tmp_path / "atari_pong" / "0", "finished", finished=400)
    make_run(tmp_path / "atari_pong" / "1", "finished", finished=300, seed=1, **{"run.steps": 300})  # and now has 400
    make_run(tmp_path / "atari_pong" / "2", "stopped by SIGTERM", seed=2, rows=rows([1, 100]))
    assert play(tmp_path / "none", [(0, 0)], seeds=("0",))[0] == [0]
    script = Script(plan(tmp_path, seeds=("0-3",)))
    runs = sweep.Sweep(script.jobs, script, retries=0)
    assert [row[2] for row in runs.summary()[1]] == ["waiting"] * 3 + ["finished"]
    script.ended = lambda timeout: [(job, Ending(2)) for job in script.jobs[1:]]
    runs.run()
    assert script.started == [1, 2, 3]


def test_a_sweep_that_is_finished_needs_no_ray(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "Pool", lambda **_: pytest.fail("nothing is left to run"))
    make_run(tmp_path / "atari_pong" / "0", "finished", finished=400)
    assert cli.main(["sweep", "--configs", "debug", "--tasks", "pong", "--logdir", str(tmp_path)]) == 0
    assert "1 run: 1 finished" in capsys.readouterr().out


def test_a_finished_sweep_loads_nothing_heavy(tmp_path):
    make_run(tmp_path / "atari_pong" / "0", "finished", finished=400)
    words = ["sweep", "--configs", "debug", "--tasks", "pong", "--logdir", str(tmp_path)]
    python("-c", f"import sys\nfrom hdfast import cli\nassert cli.main({words}) == 0\n"
           "assert not {'torch', 'numpy', 'ray', 'rich'} & set(sys.modules)")


def test_a_sweep_says_first_what_it_does(tmp_path, monkeypatch, capsys):
    """Before Ray starts, which takes seconds."""
    for seed in range(10):
        make_run(tmp_path / "atari_pong" / f"{seed}", "finished", finished=400, seed=seed)
    said = []

    def no_pool(**_):
        said.append(capsys.readouterr().out)
        raise RunError("no Ray")

    monkeypatch.setattr(sweep, "Pool", no_pool)
    for seeds in ("0-11", "10-11"):
        assert cli.main(["sweep", "--configs", "debug", "--tasks", "pong", "--seeds", seeds, "--logdir",
                         str(tmp_path)]) == 1
    names = ", ".join(f"atari_pong/{seed}" for seed in range(8))
    assert said == [f"sweep: 12 runs in {tmp_path}, 10 finished before ({names}, 2 more), 2 to run; starting Ray\n",
                    f"sweep: 2 runs in {tmp_path}, 2 to run; starting Ray\n"]


def test_without_a_terminal_each_tenth_of_a_run_is_said(tmp_path, capsys):
    script = Script(plan(tmp_path, seeds=("0",)))
    metrics, turns = tmp_path / "atari_pong" / "0" / "metrics.jsonl", iter([0, 10, 39, 41, 45, 119])

    def ended(timeout):
        step = next(turns, None)
        if step is None:
            return [(script.jobs[0], Ending(1))]
        if not metrics.exists():
            make_run(metrics.parent)
        metrics.write_text("".join(json.dumps(row) + "\n" for row in rows([step], **{"episode/score": 1.5})))
        return []

    script.ended = ended
    sweep.Sweep(script.jobs, script, retries=0).run()
    assert capsys.readouterr().out.splitlines()[:3] == [
        f"atari_pong, seed 0: running, step {step}/400, score 1.5" for step in (0, 41, 119)]


def test_flags_reach_the_pool(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(sweep, "sweep", lambda jobs, **options: asked.update(options, jobs=len(jobs)))
    assert cli.main(["sweep", "--configs", "debug", "--tasks", "pong,breakout", "--seeds", "0-4", "--jobs_per_gpu", "2",
                     "--ray.address", "head:6379", "--cpus", "3", "--logdir", str(tmp_path)]) == 1
    assert asked == dict(jobs=10, retries=3, device="auto", address="head:6379", cpus=3, cpus_per_job=1, jobs_per_gpu=2)


def test_commands_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned = []
    monkeypatch.setattr(sweep, "sweep", lambda jobs, **_: planned.append(len(jobs)) or True)
    page = (ROOT / "docs" / "sweeps.md").read_text()
    for line in page.splitlines():
        if line.startswith("hdfast sweep"):
            assert cli.main(line.split()[1:]) == 0, line
    assert planned == [130, 4, 2]
    assert all(f"`--{name}`" in page for name in ("tasks", "seeds", "jobs_per_gpu", "cpus_per_job", "cpus", "retries",
                                                  "ray.address"))


def test_without_ray(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert cli.main(["sweep", "--configs", "debug", "--tasks", "dummy", "--logdir", str(tmp_path)]) == 2
    assert "pip install 'hdfast[sweep]'" in capsys.readouterr().err
