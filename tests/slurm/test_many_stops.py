"""Signals that reach the ranks at different times: none may hang the run or change it."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster, command, wait_for
from slurm_jobs import ON_TWO_NODES, Job, result_of

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

NUM_STOPS = 36
NUM_STEPS = 500
MAX_SKEW_SECONDS = 0.3
EARLY_EVERY = 7  # this attempt has its first signal before it trains
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
TINY_RUN = (
    "name=t",
    "trainer=cpu_2",
    "trainer.devices=1",
    "trainer.num_nodes=2",
    f"max_tokens={NUM_STEPS * 128}",
    "tokens_per_step=128",
    f"trainer.val_check_interval={NUM_STEPS}",
    "trainer.log_every_n_steps=50",
    "callbacks.checkpoint.every_n_steps=50",
    "callbacks.agreement.every_n_steps=100",
    "callbacks.progress=null",
    "data.max_val_documents=2",
    "data.budget.seq_len=64",
    "data.budget.micro_batch_size=1",
    "data.verify=size",
    "model.config.d_model=32",
    "model.config.n_layer=1",
    "resume=auto",
)


class Ranks:
    """What both ranks have written down, and their processes."""

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder, self._job = folder, job

    def events(self, rank: int, attempt: int, event: str) -> list[dict[str, Any]]:
        path = self.folder / f"rank-{rank}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [e for e in found if (e["attempt"], e["event"]) == (attempt, event)]

    def wait(self, attempt: int, event: str) -> list[dict[str, Any]]:
        """Wait until both ranks are there; return what they said last."""

        def both() -> list[dict[str, Any]] | None:
            found = [self.events(rank, attempt, event) for rank in (0, 1)]
            return [each[-1] for each in found] if all(found) else None

        what = f"{event} in attempt {attempt}\n{self._job.text()}"
        found: list[dict[str, Any]] = wait_for(what, both)
        return found

    def signal(self, attempt: int, chance: random.Random) -> None:
        """Signal both ranks: at once as SLURM does, or one after the other."""
        first, second = chance.choices(SIGNALS, k=2)
        if attempt % 3 == 0:
            self._job.signal(first.name[3:])
            (self.folder / f"sent-{attempt}").touch()
            return
        pids = [event["pid"] for event in self.wait(attempt, "begin")]
        chance.shuffle(pids)
        os.kill(pids[0], first)
        (self.folder / f"sent-{attempt}").touch()
        time.sleep(chance.uniform(0.0, MAX_SKEW_SECONDS))
        os.kill(pids[1], second)


def is_early(attempt: int) -> bool:
    return (attempt + 1) % EARLY_EVERY == 0


def stop_once(ranks: Ranks, attempt: int, chance: random.Random) -> int | None:
    """Stop an attempt; return the step it saved, None if it had no time to make one."""
    ranks.wait(attempt, "ready" if is_early(attempt) else "step")
    time.sleep(chance.uniform(0.0, 0.1))
    ranks.signal(attempt, chance)
    reasons = [stop["reason"] for stop in ranks.wait(attempt, "stop")]
    (ranks.folder / f"go-{attempt}").touch()
    if is_early(attempt):
        assert all("before the first step" in reason for reason in reasons), reasons
        return None
    steps = [step["step"] for step in ranks.wait(attempt, "step")]
    assert steps[0] == steps[1]
    checkpoint = f"step_{steps[0]:07d}.ckpt"
    for reason in reasons:
        assert f"saved step {steps[0]} in" in reason
        assert checkpoint in reason
    return int(steps[0])


def test_the_ranks_stop_at_one_step_whenever_the_signals_reach_them(
    cluster: Cluster, workspace: Path
) -> None:
    folder = workspace / "many_stops"
    folder.mkdir()
    log = workspace / "many_stops.log"
    driver = Path(__file__).with_name("many_stops.py")
    words = [os.environ["BIOMAMBA_PYTHON"], str(driver), str(folder), str(EARLY_EVERY), *TINY_RUN]
    options = (*ON_TWO_NODES, f"--chdir={workspace}", f"--output={log}")
    wrapped = f"OMP_NUM_THREADS=1 srun --kill-on-bad-exit=1 {' '.join(words)}"
    job = Job(command("sbatch", "--parsable", *options, "--wrap", wrapped), log, workspace)
    ranks = Ranks(folder, job)

    chance = random.Random(1)
    saved = [stop_once(ranks, attempt, chance) for attempt in range(NUM_STOPS)]
    assert job.finish() == "COMPLETED", job.text()

    stops = [step for step in saved if step is not None]
    assert stops == sorted(set(stops))
    for rank in (0, 1):
        whole = {e["step"]: e["weights"] for e in ranks.events(rank, -1, "step")}
        assert len(whole) == NUM_STEPS
        last = 0
        for attempt, step in enumerate([*saved, NUM_STEPS]):
            made = ranks.events(rank, attempt, "step")
            # Continues after the stop before it, and every step has the weights of the whole run.
            assert [e["step"] for e in made] == list(range(last + 1, (step or last) + 1))
            assert all(e["weights"] == whole[e["step"]] for e in made)
            last = step or last
    runs = workspace / "runs" / "t"
    assert result_of(runs / "parts", NUM_STEPS) == result_of(runs / "whole", NUM_STEPS)
