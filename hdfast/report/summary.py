"""Everything a report shows, computed: methods as groups of runs, aggregates per set of games, what is missing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle

import numpy as np

from hdfast import scores
from hdfast.report import statistics
from hdfast.report.run import OURS, Curve, Run
from hdfast.report.statistics import Estimate
from hdfast.report.style import METHODS, OTHERS
from hdfast.tasks import ATARI26

NAMES = {"dreamerv3": "DreamerV3", "harmonydream": "HarmonyDream"}
SEEDS = {f"{name} (official seeds)": name for name in NAMES.values()}
"""{method of a score file that holds the curves of a published method's single seeds: that method}."""
METRICS = {"mean": "Mean", "median": "Median", "iqm": "IQM", "optimality_gap": "Optimality gap"}
OWN, FILE, PUBLISHED = "own", "file", "published"


@dataclass(frozen=True)
class Group:
    """One method: its final scores and curves by task, those of unfinished runs only where there are no others.

    Published curves are means over seeds, one a task; `seeds` are those of single seeds, where a score file has them.
    `color` is that of the method in every figure.
    """

    name: str
    kind: str
    finals: dict[str, np.ndarray]  # {task: (runs,) scores}
    curves: dict[str, list[Curve]]
    runs: tuple[Run, ...] = ()
    seeds: dict[str, list[Curve]] = field(default_factory=dict)
    color: str = ""

    def lone(self, tasks: Iterable[str]) -> str:
        """'one run' or 'one run of some games' where that is all there is of some tasks, else ''."""
        counts = {len(self.finals[task]) for task in tasks}
        return "" if 1 not in counts else "one run" if counts == {1} else "one run of some games"

    def normalized(self, tasks: Iterable[str]) -> dict[str, np.ndarray]:
        """{task: (runs,)} human-normalized final scores of tasks that have reference scores."""
        return {task: _normalized(task, self.finals[task]) for task in tasks}


@dataclass(frozen=True)
class Row:
    """Aggregates of one method over the games of a block."""

    group: Group
    aggregates: dict[str, Estimate]


@dataclass(frozen=True)
class Versus:
    """Probability that a run of `ours` beats one of `other`."""

    ours: str
    other: str
    chance: Estimate


@dataclass(frozen=True)
class Block:
    """The games that some methods share, and the statistics over exactly these."""

    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    improvements: tuple[Versus, ...]


@dataclass(frozen=True)
class Summary:
    """What the tables, figures and the page show."""

    groups: tuple[Group, ...]
    tasks: tuple[str, ...]
    blocks: tuple[Block, ...]
    missing: tuple[str, ...]
    samples: int
    notes: tuple[str, ...]


def summarize(own: Sequence[Run], peers: Sequence[Run] = (), notes: Sequence[str] = (), *, samples: int,
              unfinished: bool = False) -> Summary:
    """Summary of the runs of some folders (own, by their methods' names, or others') and of score files, beside the
    published methods.

    Curves of a published method's single seeds become its range, and are no runs of their own. `samples` is the number
    of bootstrap samples; `unfinished` counts runs that have not ended yet.
    """
    single = [run for run in (*own, *peers) if run.method in SEEDS]
    others = [*(run for run in own if not run.method.startswith(OURS)), *peers]
    peers = [run for run in others if run.method not in SEEDS]
    own = [run for run in own if run.method.startswith(OURS)]
    groups = [*_groups(own, OWN, unfinished, set()),
              *_groups(peers, FILE, unfinished, {run.method for run in own} | set(NAMES.values())),
              *(_published(method, single) for method in scores.METHODS)]
    free = cycle(OTHERS)
    groups = [replace(group, color=METHODS.get(group.name) or next(free)) for group in groups]
    tasks = tuple(sorted({run.task for run in (*own, *peers)})) or scores.tasks()
    return Summary(tuple(groups), tasks, tuple(_blocks(groups, samples)),
                   (*notes, *(line for g in groups if g.kind == OWN for line in _missing(g, unfinished))),
                   samples, (*_random_notes([*own, *peers], tasks), *_notes(groups, unfinished)))


def title(task: str) -> str:
    """A task's name as people write it: atari_ms_pacman is Ms Pacman."""
    game = task.removeprefix("atari_")
    return task if game == task else game.replace("_", " ").title()


def ended(runs: Sequence[Run]) -> Sequence[Run]:
    """The finished ones of some runs, or all of them where none is."""
    return [run for run in runs if run.finished] or runs


def spread(values: np.ndarray) -> float | None:
    """Sample standard deviation over runs; None for a single one."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def mean_curve(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, mean and sample standard deviation over runs, (n,) each, up to where the shortest of them ends.

    Between its points a run is interpolated; what lies before the first point of any of them is left out.
    """
    first, last = max(xs[0] for xs, _ in curves), min(xs[-1] for xs, _ in curves)
    grid = np.unique(np.concatenate([xs for xs, _ in curves]))
    grid = grid[(grid >= first) & (grid <= last)]
    values = np.array([np.interp(grid, xs, ys) for xs, ys in curves])
    return grid, values.mean(0), values.std(0, ddof=1) if len(values) > 1 else np.zeros(len(grid))


def normalized_curves(group: Group, tasks: Sequence[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Frames (n,) and {mean, median: (n,)} over games of the human-normalized mean curve of each game."""
    means = {task: mean_curve(group.curves[task])[:2] for task in tasks}
    means = {task: curve for task, curve in means.items() if len(curve[0])}
    if not means:
        return np.empty(0), {}
    xs = mean_curve(list(means.values()))[0]
    values = np.array([_normalized(task, np.interp(xs, *curve)) for task, curve in means.items()])
    return xs, {"mean": values.mean(0), "median": np.median(values, 0)}


def _normalized(task: str, values: np.ndarray) -> np.ndarray:
    return np.array([scores.human_normalized(task, float(value)) for value in values])


def _groups(runs: Sequence[Run], kind: str, unfinished: bool, taken: set[str]) -> list[Group]:
    groups = []
    for method in sorted({run.method for run in runs}, key=_rank):
        members = [run for run in runs if run.method == method]
        finals, curves = {}, {}
        for task in sorted({run.task for run in members}):
            of_task = [run for run in members if run.task == task]
            if values := [run.final for run in of_task if run.final is not None and (run.finished or unfinished)]:
                finals[task] = np.array(values)
            if found := [run.curve for run in ended([run for run in of_task if len(run.curve[0])])]:
                curves[task] = found
        groups.append(Group(f"{method} (file)" if method in taken else method, kind, finals, curves, tuple(members)))
    return groups


def _rank(method: str) -> tuple[bool, int, str]:
    """HarmonyDream first, then other names, those with little to add before the long ones."""
    return "HarmonyDream" not in method, len(method), method


def random_play(runs: Iterable[Run], task: str) -> np.ndarray:
    """Scores (n,) of random play on a task, as measured beside the runs; what several runs repeat counts once."""
    found = dict.fromkeys(run.random for run in runs if run.task == task)
    return np.array([score for episodes in found for score in episodes])


def _published(method: str, single: Sequence[Run]) -> Group:
    frames = np.array(scores.curve_frames(), float)
    rows = {task: scores.reference(task)[method] for task in scores.tasks()}
    return Group(NAMES[method], PUBLISHED, {task: np.array(row["final_per_seed"]) for task, row in rows.items()},
                 {task: [(frames, np.array(row["curve_mean"]))] for task, row in rows.items()},
                 seeds={task: [run.curve for run in single if run.task == task and SEEDS[run.method] == NAMES[method]]
                        for task in {run.task for run in single}})


def _blocks(groups: Sequence[Group], samples: int) -> list[Block]:
    """One block for each set of games that an own or imported method has, or for all games; largest first."""
    known = set(scores.tasks())
    sets = {tuple(sorted(known & set(g.finals))) for g in groups if g.kind != PUBLISHED} - {()}
    if all(g.kind == PUBLISHED for g in groups):
        sets = {scores.tasks()}
    return [_block(tasks, groups, samples) for tasks in sorted(sets, key=lambda tasks: (-len(tasks), tasks))]


def _block(tasks: tuple[str, ...], groups: Sequence[Group], samples: int) -> Block:
    members = [g for g in groups if set(tasks) <= set(g.finals)]
    values = {g.name: g.normalized(tasks) for g in members}
    rows = [Row(g, statistics.aggregates(values[g.name], samples=samples)) for g in members]
    pairs = [(a, b) for i, a in enumerate(members) for b in members[i + 1:]]
    if len(members) > len(NAMES):  # the published pair has nothing to do with the runs
        pairs = [(a, b) for a, b in pairs if a.kind != PUBLISHED]
    else:
        pairs = [(b, a) for a, b in pairs]
    return Block(tasks, tuple(rows), tuple(
        Versus(a.name, b.name, statistics.improvement(values[a.name], values[b.name], samples=samples))
        for a, b in pairs))


def _missing(group: Group, unfinished: bool) -> list[str]:
    """What a group of own runs lacks: games, seeds, ends of runs."""
    tasks = sorted({run.task for run in group.runs})
    lines = []
    games = [task for task in ATARI26 if task not in tasks]
    if 0 < len(games) < len(ATARI26):
        there = [task for task in ATARI26 if task in tasks]
        lines.append(f"{group.name}: " + (
            f"no run of {len(games)} of the {len(ATARI26)} games: {', '.join(map(title, games))}"
            if len(games) < len(there) else
            f"runs of {len(there)} of the {len(ATARI26)} games only: {', '.join(map(title, there))}"))
    seeds = {run.seed for run in group.runs}
    lacking: dict[tuple[str, ...], list[str]] = {}
    for task in tasks:
        if gone := tuple(sorted(seeds - {run.seed for run in group.runs if run.task == task})):
            lacking.setdefault(gone, []).append(title(task))
    lines += [f"{group.name}: no run with seed {', '.join(gone)} of {', '.join(names)}"
              for gone, names in lacking.items()]
    for run in group.runs:
        if not run.finished:
            counted = "counted as it is" if unfinished else "not in the final scores"
            lines.append(f"{group.name}: {title(run.task)}, seed {run.seed} is at {run.progress:.0%} "
                         f"({run.frames:,} of {run.total:,} frames), {counted}")
    return lines


def _random_notes(runs: Sequence[Run], tasks: Sequence[str]) -> list[str]:
    """What random play scores in the runs' own evaluation, in one sentence; none where it was not measured."""
    said = []
    for task in tasks:
        if len(found := random_play(runs, task)):
            row = scores.reference(task)
            said.append(f"{title(task)} {found.mean():,.1f} over {len(found)} episodes"
                        + (f" (published {row['random']:,.1f})" if row else ""))
    return [f"Random play by the same evaluation as the runs scores: {'; '.join(said)}."] if said else []


def _notes(groups: Sequence[Group], unfinished: bool) -> list[str]:
    """What a reader must know to compare the numbers."""
    notes, end = [], scores.curve_frames()[-1]
    for group in groups:
        if group.kind == PUBLISHED:
            continue
        if group.kind == OWN and "[" in group.name:
            notes.append(f"{group.name} differs from the official protocol in what stands in brackets, and so may mean "
                         "something else than the published scores.")
        ends = sorted({run.frames for run in group.runs if run.task in scores.tasks() and run.finished})
        if ends and not 0.95 * end < ends[0] <= ends[-1] < 1.05 * end:
            reached = f"{ends[0]:,}" if len(ends) == 1 else f"{ends[0]:,} to {ends[-1]:,}"
            notes.append(f"{group.name} ends at {reached} frames, the published methods at {end:,}: the final scores "
                         "are not at equal frames, the curves are.")
        counted = [run for run in group.runs if run.final is not None and (run.finished or unfinished)]
        if by_episodes := sum("training episodes" in run.how for run in counted):
            notes.append(f"{group.name}: {by_episodes} of {len(counted)} final scores are means of the last training "
                         "episodes, as these runs have no evaluation.")
        counts = {len(runs) for task, runs in group.finals.items() if task in scores.tasks()}
        if 1 in counts:
            notes.append(f"{group.name} has games with a single run: their spread is unknown, and what counts them has "
                         "no interval.")
        elif len(counts) > 1:
            notes.append(f"{group.name} has {min(counts)} to {max(counts)} runs a game; every game counts the same.")
        other = sorted(task for task in group.finals if scores.reference(task) is None)
        if other:
            notes.append(f"{group.name}: {', '.join(map(title, other))} has no human score and is in no aggregate.")
    return notes
