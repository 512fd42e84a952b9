"""The training loop: act, store, update; evaluate, log and save when due. Official `train_eval`.

A vector step acts on the record and sends the action. While the environments step, it stores record and action and runs
the updates that are due; then it receives the next record. The emulator needs only the action, so this is the official
order without its waiting: the same parameters act, and updates find the same steps in the replay.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hdfast import distributed, machine, ops, rng
from hdfast.agent import Agent, PolicyState
from hdfast.config import Config
from hdfast.envs import Step, VectorEnv, make_envs, resolved_backend
from hdfast.errors import EnvError, RunError
from hdfast.estimate import slow
from hdfast.evaluation import Evaluation, RandomAgent, Running, against_random, evaluate, load_agent
from hdfast.machine import pick_device, replay_device, usable_cores
from hdfast.protocol import Schedule, crossed, frames_per_step
from hdfast.replay.ring import ring_bytes
from hdfast.replay.sequences import Replay
from hdfast.run import checkpoint
from hdfast.run.alarms import Alarms
from hdfast.run.directory import RunDir, check_settings, finished_step, load_config, run_manifest
from hdfast.run.jsonl import read_rows
from hdfast.run.jsonl import replace as replace_file
from hdfast.run.logger import Logger
from hdfast.run.pictures import RANDOM_PLAY, learning_curve, random_scores
from hdfast.run.stopping import Stopped, Stopping
from hdfast.run.trackers import tracker
from hdfast.spaces import described, spaces
from hdfast.tasks import task_of

CONTEXT = 5  # frames that an open-loop prediction sees, as in the official report
STRIP_SEQUENCES = 6
COUNTERS = ("step", "updates", "episodes", "evaluated", "best_score", "best_eval", "last_score")  # in checkpoints
TRAIN_ENVS, EVALUATION, PREFILL, REPLAY, STRIP, RANDOM = range(6)  # streams of random numbers besides the agent's own


@contextmanager
def prepared(config: Config) -> Iterator[tuple[torch.device, distributed.Team | None]]:
    """Prepare the process for `config`; yields the device of the run and its team, if it has one."""
    with distributed.team(config) as team:
        device = team.device if team else pick_device(config.device)
        machine.prepare(config, device)
        yield device, team


@dataclass(frozen=True)
class Result:
    """What a run left so far: its directory, and the rows of its eval.jsonl (step, scores, lengths, cut, ...)."""

    logdir: Path
    evaluations: list[dict[str, Any]]

    @property
    def paths(self) -> dict[str, Path]:
        """What is there of config, metrics, scores, eval, curve, ckpt and videos."""
        names = ("config.json", "metrics.jsonl", "scores.jsonl", "eval.jsonl", "curve.png", "ckpt", "videos")
        found = {name.partition(".")[0]: self.logdir / name for name in names}
        return {name: path for name, path in found.items() if path.exists()}

    @property
    def score(self) -> float | None:
        """Mean score of the last evaluation; None before the first."""
        return self.evaluations[-1]["eval/score"] if self.evaluations else None

    def load(self, device: str = "auto", *, tag: str | None = None) -> Agent:
        """The agent of the latest checkpoint, or of the one tagged `tag` ('best')."""
        return load_agent(self.logdir, device, tag=tag)


def train(config: Config, *, envs: Callable[..., Any] | None = None,
          on_row: Callable[[dict[str, Any]], None] | None = None) -> Result:
    """Start the run of `config` in its logdir, or continue the one there, to its end.

    `envs` is a class or function that makes a Gymnasium environment, called with env.kwargs; the run's task is then
    env_<module>:<name>, by which other processes find it again. `on_row` is called with every row of metrics.jsonl.
    Raises ConfigError for settings that do not work here or differ from the run's, RunError if the run cannot continue.
    After SIGINT it saves everything and raises KeyboardInterrupt, after SIGTERM and SIGHUP SystemExit (143, 129). After
    run.max_seconds it saves and returns early.
    """
    if envs is not None:
        config = replace(config, task=task_of(envs))
    logdir = config.run_dir()
    with prepared(config) as (device, team):
        if team and team.rank:
            distributed.follow(config, team)
        else:
            _train(config, logdir, device, team, on_row)
    return Result(logdir, read_rows(logdir / "eval.jsonl"))


def _train(config: Config, logdir: Path, device: torch.device, team: distributed.Team | None,
           on_row: Callable[[dict[str, Any]], None] | None) -> None:
    config = with_backend(config, logdir)
    if check_settings(logdir, config) and (done := finished_step(logdir) or 0) >= config.run.steps:
        print(f"{logdir} is finished: {done} steps of run.steps {config.run.steps}. Raise --run.steps to train on, or "
              "choose another --logdir for a new run.")
        return
    saved = checkpoint.existing(logdir / "ckpt", None)
    seed = stream_seed(config.seed, TRAIN_ENVS, saved[-1][0] if saved else 0)
    with closing(make_envs(config.task, config.env, seed=seed)) as envs:
        agent = distributed.LeadingAgent(envs.obs_space, envs.act_space, config, team=team) if team else \
            Agent(envs.obs_space, envs.act_space, config, device=device)
        Trainer(config, agent, envs, logdir, on_row=on_row).run()


def with_backend(config: Config, logdir: Path) -> Config:
    """`config` with what env.backend auto means written out: a run keeps the library that it began with, for libraries
    draw other random numbers."""
    family = config.task.partition("_")[0]
    if config.env.backend != "auto" or family not in ("atari", "dmc", "metaworld"):
        return config
    begun = (logdir / "config.json").exists()
    chosen = load_config(logdir).env.backend if begun else resolved_backend("auto", family)
    return replace(config, env=replace(config.env, backend=chosen))


def stream_seed(seed: int, *stream: int) -> int:
    """A seed in 0..2^31-1 for one stream of random numbers of a run."""
    return int(np.random.SeedSequence([seed, *stream]).generate_state(1)[0]) >> 1


class Trainer:
    """Runs the schedule of `config` with an agent and environments, in a run directory that it resumes from.

    `eval_envs` makes the environments of one evaluation from (count, seed); by default those of the task. `on_row` is
    called with every row of metrics.jsonl.
    """

    def __init__(self, config: Config, agent: Agent, envs: VectorEnv, logdir: Path | str, *,
                 eval_envs: Callable[[int, int], VectorEnv] | None = None,
                 on_row: Callable[[dict[str, Any]], None] | None = None):
        self.config, self.agent, self.envs, self.logdir = config, agent, envs, Path(logdir)
        self.schedule = Schedule.of(config.run)
        self.step = self.updates = self.episodes = self.retries = 0
        self.evaluated = 0  # step of the last complete evaluation
        self.best_score: float | None = None  # of a training episode
        self.best_eval: float | None = None
        self.last_score: float | None = None
        self._eval_envs = eval_envs or (lambda n, seed: make_envs(config.task, config.env, num_envs=n, seed=seed))
        self._on_row = on_row
        self._prefill_rng = np.random.Generator(np.random.PCG64(stream_seed(config.seed, PREFILL)))
        self._running = Running(envs.num_envs)
        self.stopping, self.alarms = Stopping(config.run.max_seconds), Alarms()
        self._pictures: dict[str, Path] = {}  # the newest of each kind, for the summary

    def run(self) -> None:
        """Train to run.steps, evaluate, and write the pictures; the same call on the same directory continues a run.

        Raises as `train` does.
        """
        with self.stopping.listening(), closing(RunDir(self.logdir, self.config, self.agent.device)) as run_dir:
            try:
                try:
                    with self._opened(run_dir):
                        status = self._live()
                except Stopped:
                    status = f"stopped by {self.stopping.reason()}"  # while loading
                run_dir.note(status, step=self.step, finished=status == "finished")
            except BaseException as error:
                with suppress(RunError):  # the first error is the one to raise
                    run_dir.note(f"failed: {type(error).__name__}: {error}", step=self.step)
                raise
        self.stopping.leave()

    def _live(self) -> str:
        """Train and finish; returns how it ended. A stop saves everything first."""
        try:
            self._loop()
            self._finish()
        except EnvError:
            self._save()
            raise
        except Stopped:
            self._save()
            status = f"stopped by {self.stopping.reason()}"
            self.log.finish()
            self.log.message(f"{status}, saved at {self._place()}")
            return status
        return "finished"

    # The loop

    def _loop(self) -> None:
        """Train until run.steps."""
        steps, count = self.config.run.steps, self.envs.num_envs
        self._update()  # updates that a stop left out
        if self.step >= steps:
            return
        if self.config.run.eval_random and not (self.logdir / RANDOM_PLAY).exists():
            self._play_randomly()
        if crossed(self.config.run.eval_every, self.evaluated, self.step):
            self._evaluate()  # a stop interrupted it
        with self.stopping.interruptible():
            record, policy = self._received(self.envs.reset), None
        while True:
            more = self.step + count < steps
            with self.log.timer("act"):
                self.replay.expect(record)  # copies during the last update, which the action waits for
                action, policy = self._act(record, policy)
                if more:
                    self.envs.send(action)
                self.replay.add(record, action)
            self.step += count
            self._count_episodes(record)
            self._update()
            self._report(self.step - count)
            if not more:
                return
            with self.log.timer("env"), self.stopping.interruptible():
                record = self._received(self.envs.recv)

    def _received(self, receive: Callable[[], Step]) -> Step:
        """The records of `receive`, or if an environment fails, the first ones of new environments."""
        while True:
            try:
                return receive()
            except EnvError as error:
                self._env_failed(error)
                receive = self.envs.reset

    def _env_failed(self, error: EnvError) -> None:
        """Log that environments are recreated, or raise the error after env.retries times."""
        if self.retries >= self.config.env.retries:
            raise error
        self.retries += 1
        self.log.message(f"warning: step {self.step}: {error}; all are recreated and begin new episodes (retry "
                         f"{self.retries} of {self.config.env.retries})")

    def _act(self, record: Step, policy: PolicyState | None) -> tuple[np.ndarray, PolicyState | None]:
        """Actions (N, ...): random ones in the prefill, then the policy's, which takes over in mid-episode."""
        count = self.envs.num_envs
        if self.schedule.random_actions(self.step):
            return self.envs.act_space.random(self._prefill_rng, count), None
        return self.agent.act(record, self.agent.init_policy(count) if policy is None else policy)

    def _count_episodes(self, record: Step) -> None:
        """Record the episodes that end."""
        for score, length in self._running.add(record):
            self.episodes, self.last_score = self.episodes + 1, score
            self.best_score = score if self.best_score is None else max(self.best_score, score)
            self.log.episode(score, length, self.step, self.updates)

    def _update(self) -> None:
        """Run the updates that are due at this step; a stop waits for the running one."""
        run = self.config.run
        for _ in range(self.schedule.updates_due(self.step) - self.updates):
            self.stopping.check()
            with self.log.timer("sample"):
                batch = None if self._drawn else self.replay.sample(run.batch_size, run.batch_length)
            with self.log.timer("train"):
                self.agent.update(batch)
            self.updates += 1

    def _report(self, before: int) -> None:
        """Do what is due after step `before` up to this one; records come before the checkpoint that covers them."""
        run, last = self.config.run, self.step >= self.config.run.steps
        if last or crossed(run.log_every, before, self.step):
            self._log()
        else:
            self.log.progress(agent_step=self.step, total_steps=run.steps, update=self.updates)
        if crossed(run.video_every, before, self.step) and not last:
            self._strip()
        if crossed(run.eval_every, self.evaluated, self.step) and not last:
            self._evaluate()
        self.stopping.check()
        if not last and crossed(run.save_every, before, self.step):
            self._save()

    def _finish(self) -> None:
        """Final checkpoint, evaluation, pictures and summary; safe to repeat after an interruption."""
        if self.evaluated != self.step:
            self._save()  # an evaluation may take longer than the training since the last checkpoint
            self._evaluate()
        self._strip()
        self._save()
        try:
            with self.stopping.interruptible():
                self._pictures["curve"] = learning_curve(self.logdir / "curve.png", self.logdir, task=self.config.task)
        except ImportError as error:
            self.log.message(f"no learning curve is drawn: {error}")
        frames = self.step * frames_per_step(self.config)
        self.log.finish()
        self.log.message(
            f"done: {self.step:,} steps ({frames:,} frames), {self.updates:,} updates, {self.episodes:,} episodes, "
            f"best episode {_shown(self.best_score)}, best evaluation {_shown(self.best_eval)}")
        random, evals = random_scores(self.logdir), read_rows(self.logdir / "eval.jsonl")
        if random and evals:
            self.log.message(against_random(self.config.task, evals[-1]["scores"], random))
        self.log.message("\n".join(f"  {what:<12} {path}" for what, path in self._pictures.items()))
        self.log.message(f"  {'records':<12} {self.logdir}: metrics.jsonl scores.jsonl eval.jsonl ckpt/")

    # Records

    def _place(self) -> str:
        """'step 25 (100 frames)': how far the run is."""
        return f"step {self.step:,} ({self.step * frames_per_step(self.config):,} frames)"

    def _log(self) -> None:
        run = self.config.run
        with self.log.timer("log"):
            values = self.agent.read_metrics_sync()
        alarms, raised = self.alarms.check(values)
        values |= alarms | {"replay/items": len(self.replay), "replay/inserts": self.step,
                   "replay/samples": self.updates * run.batch_size}
        if self.agent.device.type == "cuda":
            values["usage/gpu_mem"] = torch.cuda.memory_allocated(self.agent.device) / 2**30
        row = self.log.scalars(values, self.step, self.updates)
        for alarm in raised:
            self.log.message(f"warning: {alarm}")
        self.log.progress(agent_step=self.step, total_steps=run.steps, update=self.updates, scalars=row,
                          score=self.last_score, best=self.best_score)
        if self.alarms.skipped >= run.max_skipped:
            self._give_up()

    def _give_up(self) -> None:
        """Save, if every parameter is finite, and end the run with a diagnosis."""
        good = [path.name for _, _, path in checkpoint.existing(self.logdir / "ckpt", None)]
        found, sound = self.agent.diagnosis_sync(), self.agent.sound_sync()
        if sound:
            self._save()
        raise RunError(self.alarms.verdict(self.step, self.config.run.max_skipped, found, sound, good))

    def _evaluate(self) -> None:
        """Evaluate with separate environments and samples: training does not change."""
        with self.log.timer("eval"):
            result = self._played(self.agent, stream_seed(self.config.seed, EVALUATION, self.step), record=True)
        with self.log.timer("log"), self.stopping.interruptible():
            self.log.evaluation(result.scores, result.lengths, self.step, self.updates, cut=result.cut,
                                human_normalized=result.human_normalized, success=result.success)
            if result.frames is not None:
                self._pictures["policy"] = self.log.video("eval/policy", result.frames, self.step)
        more = "" if result.human_normalized is None else f", human-normalized {result.human_normalized:.3f}"
        more += "" if result.success is None else f", {result.success:.0%} successful"
        self.log.message(f"evaluation at {self._place()}: {result.score_mean:.2f} +- {result.score_std:.2f} over "
                         f"{episodes_words(result)}{more}")
        self.evaluated = self.step
        if self.best_eval is None or result.score_mean > self.best_eval:
            self.best_eval = result.score_mean
            checkpoint.save(self.logdir / "ckpt", self.step, self.agent.state_dict(), self._counters(), tag="best")

    def _play_randomly(self) -> None:
        """Play an evaluation's episodes with random actions and keep the scores in random.json."""
        agent = self.agent
        result = self._played(RandomAgent(agent.obs_space, agent.act_space), stream_seed(self.config.seed, RANDOM))
        replace_file(self.logdir / RANDOM_PLAY,
                     json.dumps({"scores": result.scores, "lengths": result.lengths}).encode())
        self.log.message(f"random play: {result.score_mean:.2f} +- {result.score_std:.2f} over "
                         f"{episodes_words(result)}")

    def _played(self, player: Agent | RandomAgent, seed: int, **options: Any) -> Evaluation:
        """Play the episodes of one evaluation in separate environments."""
        run = self.config.run
        with closing(self._eval_envs(min(run.eval_envs, run.eval_episodes), seed)) as envs:
            return evaluate(player, self.config, episodes=run.eval_episodes, seed=seed, envs=envs, stop=self.stopping,
                            failed=self._env_failed, **options)

    def _strip(self) -> None:
        """Show open-loop predictions on sequences drawn by a separate generator."""
        length = self.config.run.batch_length
        if not self.agent.obs_space.images or not self.config.run.video_every or not self.replay.windows(length):
            return
        with self.log.timer("log"), self.stopping.interruptible():
            seed = stream_seed(self.config.seed, STRIP, self.step)
            generator = torch.Generator(self.replay.rng.device).manual_seed(seed)
            batch = self.replay.sample(STRIP_SEQUENCES, length, generator)
            context = min(CONTEXT, length // 2)
            grid = self.agent.openloop(batch, context)
            self._pictures["predictions"] = self.log.openloop(grid, self.step, context=context)

    # Checkpoints and setup

    def _counters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in COUNTERS} | described(self.agent.obs_space, self.agent.act_space)

    def _save(self) -> None:
        """Write a checkpoint, unless nothing changed since the last one."""
        if self._counters() == self._saved:
            return
        with self.log.timer("save"):
            manifest = self._counters() | {
                "replay": self.replay.flush(), "records": self.log.mark(), "replay_rng": rng.to_text(self.replay.rng),
                "prefill_rng": self._prefill_rng.bit_generator.state, "config": self.config.flat()}
            checkpoint.save(self.logdir / "ckpt", self.step, self.agent.state_dict(), manifest)
            self._saved = self._counters()
            self._run_dir.note("running", step=self.step)

    def _load(self, found: checkpoint.Checkpoint | None) -> None:
        """Load the state of a checkpoint; None starts a new run."""
        if found is None:
            self.replay.restore(None)
            return
        have = spaces(found.manifest)
        if have != (self.envs.obs_space, self.envs.act_space):
            raise RunError(f"checkpoint {found.path} was trained on {have[0]} and {have[1]}, but the environments have "
                           f"{self.envs.obs_space} and {self.envs.act_space}; use the versions it was trained with, or "
                           "another --logdir")
        manifest = run_manifest(found, self.schedule, self.envs.num_envs)
        for name in COUNTERS:
            setattr(self, name, manifest[name])
        self._prefill_rng.bit_generator.state = manifest["prefill_rng"]
        self.agent.load_state_dict(found.tensors)
        self.replay.restore(manifest["replay"])
        rng.restore(self.replay.rng, rng.from_text(manifest["replay_rng"]))

    @contextmanager
    def _opened(self, run_dir: RunDir) -> Iterator[None]:
        """Replay and logger of the run, restored from the latest checkpoint."""
        config, spaces_ = self.config, (self.envs.obs_space, self.envs.act_space)
        self._run_dir = run_dir
        checkpoint.clear_leftovers(self.logdir / "ckpt")
        found = checkpoint.latest(self.logdir / "ckpt")
        count = self.envs.num_envs
        capacity = min(config.replay.capacity, config.run.steps + count)  # no memory for steps that the run cannot fill
        device = self.agent.device
        self.replay = Replay(capacity, count, *spaces_, directory=self.logdir / "replay",
                             seed=stream_seed(config.seed, REPLAY), learner=device, threads=usable_cores(),
                             device=replay_device(config.replay.device, device, ring_bytes(capacity, *spaces_)))
        self._drawn = self.agent.draw_from(self.replay, config.run.batch_size, config.run.batch_length)
        with closing(self.replay):
            with self.stopping.interruptible():
                self._load(found)
            self._saved = self._counters()
            with self._tracked() as listeners, Logger(
                    self.logdir, action_repeat=frames_per_step(config), resume_step=found and found.step,
                    marks=found and found.manifest.get("records"), task=config.task, listeners=listeners) as self.log:
                self._banner(found)
                yield

    @contextmanager
    def _tracked(self) -> Iterator[list[Callable[[dict[str, Any]], None]]]:
        """Who listens to the rows of this run."""
        listeners = [self._on_row] if self._on_row else []
        if self.config.logger == "none":
            yield listeners
            return
        with closing(tracker(self.config.logger, self.logdir, self.config.flat())) as found:
            yield [*listeners, found.log]

    def _banner(self, found: checkpoint.Checkpoint | None) -> None:
        """What a run says about itself when it starts: task, agent, devices and length, warnings, where it continues.
        """
        config, agent, steps, ranks = self.config, self.agent, self.config.run.steps, distributed.dist_size()
        self.log.message(
            f"hdfast: {config.task}, seed {config.seed}, harmony {config.harmony.mode}, "
            f"{sum(agent.num_params().values()):,} parameters\n  {agent.device} with {ops.backend()} operations in "
            f"{machine.resolve_precision(config.precision, agent.device)}, replay on {self.replay.ring.device}, "
            f"CPU threads: {torch.get_num_threads()}, environments: {self.envs.num_envs}"
            f"{f', ranks: {ranks}' if ranks > 1 else ''}\n  {steps:,} steps ({steps * frames_per_step(config):,} "
            f"frames), {self.schedule.updates_due(steps):,} updates, in {self.logdir}")
        warnings = (slow(config, agent), *self._run_dir.warnings, *(found.discarded if found else ()))
        for warning in filter(None, warnings):
            self.log.message(f"warning: {warning}")
        if found:
            self.log.message(f"resumed from {found.path.name}: {self._place()}, update {self.updates}, "
                             f"{len(self.replay)} steps of replay; environments begin new episodes")


def episodes_words(result: Evaluation) -> str:
    """'100 episodes', and how many of them a time limit cut."""
    return f"{len(result.scores)} episodes" + (f", {result.cut} of them cut by a time limit" if result.cut else "")


def _shown(score: float | None) -> str:
    return "none" if score is None else f"{score:g}"
