"""How often intervals hold the truth and tests reject, by simulation of the functions in use.

    python benchmarks/paired_tests.py

Items are drawn from laws whose true figures are known. Four tables: coverage of the 95 % interval
of each figure, rejections of the paired test at the 5 % level where the true figures are equal,
power of the paired tests at the difference that is called detectable, and rejections of the test
over seeds where recipes are equal. No interval or no p value is counted as such, not as a failure.
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from measurement import print_table, write_result
from numpy.typing import NDArray

from biomamba.metrics.classification import calibration_error, macro_f1
from biomamba.metrics.measure import Bootstrap, Measure, interval_of, mean, proportion, ratio
from biomamba.metrics.perplexity import perplexity_of_sums
from biomamba.metrics.significance import (
    detectable_by,
    difference_over_seeds,
    mcnemar,
    minimum_detectable_paired_difference,
    paired_difference,
)

Draw = Callable[[np.random.Generator, int], Measure]
Pair = Callable[[np.random.Generator], tuple[Measure, Measure]]
Recipes = Callable[[np.random.Generator], tuple[list[Measure], list[Measure]]]
SIZES = (30, 60, 100, 200, 500)
LABELS = ["yes", "no", "maybe"]
SHARES = np.array([0.55, 0.34, 0.11])
# Answers (columns) by true label (rows): the rare label is found half of the time, and hardly ever.
USUAL = np.array([[0.8, 0.12, 0.08], [0.15, 0.75, 0.1], [0.25, 0.25, 0.5]])
POOR = np.array([[0.8, 0.19, 0.01], [0.3, 0.69, 0.01], [0.5, 0.42, 0.08]])
TRUTH_ITEMS = 1_000_000


def _names(count: int) -> list[str]:
    return [f"{item:06d}" for item in range(count)]


def _labels(
    rng: np.random.Generator, n: int, answers: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return true labels and answers as numbers."""
    true = rng.choice(len(SHARES), n, p=SHARES)
    return true, (rng.random(n)[:, None] > np.cumsum(answers, axis=1)[true]).sum(axis=1)


def _macro_f1(rng: np.random.Generator, n: int, *, answers: NDArray[np.float64]) -> Measure:
    true, given = _labels(rng, n, answers)
    return macro_f1(LABELS, [LABELS[i] for i in true], [LABELS[i] for i in given])


def _rare_label(rng: np.random.Generator, n: int, *, figure: str) -> Measure:
    true, given = (labels == 2 for labels in _labels(rng, n, USUAL))
    hits = (true & given).astype(float)
    if figure == "f1":
        return ratio("f1", 2 * hits, true.astype(float) + given)
    return ratio(figure, hits, (given if figure == "precision" else true).astype(float))


def _reciprocal_ranks(rng: np.random.Generator, n: int) -> Measure:
    return mean(
        "mrr",
        rng.choice([0, 1, 1 / 2, 1 / 3, 1 / 4, 1 / 5], n, p=[0.6, 0.25, 0.07, 0.04, 0.02, 0.02]),
    )


def _list_scores(rng: np.random.Generator, n: int) -> Measure:
    return mean("list_f1", np.where(rng.random(n) < 0.25, rng.choice([0.4, 0.5, 0.67, 1.0], n), 0))


def _perplexity(rng: np.random.Generator, n: int) -> Measure:
    """Documents of lognormal length (sigma 1) and 2.9 nats per token, give or take 0.6."""
    tokens = np.ceil(rng.lognormal(5.5, 1, n))
    columns = np.stack([tokens * rng.gamma(25, 1 / 8.5, n), tokens], axis=1)
    return Measure("perplexity", columns, perplexity_of_sums, higher_is_better=False)


FIGURES: dict[str, Draw] = {
    "accuracy 0.7": lambda rng, n: proportion("accuracy", rng.random(n) < 0.7),
    "strict accuracy 0.05": lambda rng, n: proportion("strict_accuracy", rng.random(n) < 0.05),
    "precision, label of 11 %": partial(_rare_label, figure="precision"),
    "recall, label of 11 %": partial(_rare_label, figure="recall"),
    "F1, label of 11 %": partial(_rare_label, figure="f1"),
    "macro-F1, label of 11 %": partial(_macro_f1, answers=USUAL),
    "macro-F1, label of 11 % rarely found": partial(_macro_f1, answers=POOR),
    "MRR": _reciprocal_ranks,
    "list F1, 3 of 4 are 0": _list_scores,
    "mean, beta(1.2, 6)": lambda rng, n: mean("rouge", rng.beta(1.2, 6, n)),
    "mean, lognormal(0, 0.5)": lambda rng, n: mean("score", rng.lognormal(0, 0.5, n)),
    "mean, lognormal(0, 1)": lambda rng, n: mean("score", rng.lognormal(0, 1, n)),
    "perplexity": _perplexity,
}


def _precision_pair(
    rng: np.random.Generator, *, n: int, rates: Sequence[float]
) -> tuple[Measure, Measure]:
    """Both models are right on 7 of 10 items that they answer, other shares of the items."""
    pair = []
    for rate in rates:
        chosen = rng.random(n) < rate
        pair.append(
            ratio("precision", (chosen & (rng.random(n) < 0.7)).astype(float), chosen.astype(float))
        )
    return pair[0], pair[1]


def _mirrored_pair(rng: np.random.Generator, *, n: int) -> tuple[Measure, Measure]:
    """One model is right on 90 % of the first label and 60 % of the second, the other reversed."""
    true = rng.integers(0, 2, n)
    pair = []
    for rates in ((0.9, 0.6), (0.6, 0.9)):
        given = np.where(rng.random(n) < np.array(rates)[true], true, 1 - true)
        pair.append(macro_f1(["0", "1"], [*map(str, true)], [*map(str, given)]))
    return pair[0], pair[1]


def _accuracy_pair(rng: np.random.Generator, *, n: int) -> tuple[Measure, Measure]:
    return proportion("accuracy", rng.random(n) < 0.7), proportion("accuracy", rng.random(n) < 0.7)


def _mean_pair(rng: np.random.Generator, *, n: int) -> tuple[Measure, Measure]:
    shared = rng.beta(1.2, 6, n)
    return (
        mean("rouge", shared + rng.normal(0, 0.1, n)),
        mean("rouge", shared + rng.exponential(0.2, n) - 0.2),
    )


def _calibration_pair(rng: np.random.Generator, *, n: int) -> tuple[Measure, Measure]:
    """Two calibrated models, one sure of itself and one not: both have a true error of 0."""
    pair = []
    for low, high in ((0.5, 0.7), (0.7, 0.99)):
        sure = rng.uniform(low, high, n)
        truths = np.where(rng.random(n) < sure, "a", "b")
        pair.append(calibration_error([*truths], [{"a": p, "b": 1 - p} for p in sure]))
    return pair[0], pair[1]


PAIRS: dict[str, Pair] = {
    **{
        f"precision, answers to {low:.0%} and {high:.0%} of 500": partial(
            _precision_pair, n=500, rates=(low, high)
        )
        for low, high in ((0.01, 0.4), (0.05, 0.4), (0.2, 0.4), (0.1, 0.5))
    },
    **{f"macro-F1, mirrored errors, {n} items": partial(_mirrored_pair, n=n) for n in (100, 500)},
    **{f"accuracy, {n} items": partial(_accuracy_pair, n=n) for n in (100, 500)},
    **{f"mean, other scatter, {n} items": partial(_mean_pair, n=n) for n in (50, 200)},
    "calibration error, 500 items": partial(_calibration_pair, n=500),
}


def _recipes(
    rng: np.random.Generator,
    *,
    seeds: tuple[int, int],
    of_seeds: float,
    of_both: float,
    n: int = 100,
) -> tuple[list[Measure], list[Measure]]:
    """Return two equal recipes; items scatter by 1, seeds by of_seeds, answers by of_both."""
    items = rng.normal(size=n)

    def recipe(count: int) -> list[Measure]:
        return [
            mean("score", items + rng.normal(0, of_seeds) + rng.normal(0, of_both, n))
            for _ in range(count)
        ]

    return recipe(seeds[0]), recipe(seeds[1])


RECIPES: dict[str, Recipes] = {
    "3 and 3 seeds, seeds differ": partial(_recipes, seeds=(3, 3), of_seeds=0.3, of_both=0.3),
    "5 and 5 seeds, seeds differ": partial(_recipes, seeds=(5, 5), of_seeds=0.3, of_both=0.3),
    "3 and 3 seeds, seeds and answers differ": partial(
        _recipes, seeds=(3, 3), of_seeds=0.1, of_both=1.0
    ),
    "3 and 3 seeds, only answers differ": partial(_recipes, seeds=(3, 3), of_seeds=0, of_both=1.0),
    "1 and 1 seed, only answers differ": partial(_recipes, seeds=(1, 1), of_seeds=0, of_both=1.0),
    "1 and 3 seeds, seeds differ": partial(_recipes, seeds=(1, 3), of_seeds=0.3, of_both=0.3),
}


def main() -> None:
    """Simulate everything and write the result."""
    options = _options()
    jobs: list[tuple[str, str, int]] = [
        *(("coverage", f"{name}|{n}", options.sets) for n in SIZES[::-1] for name in FIGURES),
        *(("equal figures", name, options.sets) for name in PAIRS),
        *(("power", name, options.sets) for name in POWERS),
        *(("equal recipes", name, 2 * options.sets) for name in RECIPES),
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        found = list(pool.map(_simulated, jobs))
    results: dict[str, Any] = {"sets": options.sets, "resamples": RESAMPLES, "seed": SEED}
    for (part, name, _), row in zip(jobs, found, strict=True):
        results.setdefault(part, {})[name.replace("|", ", n = ")] = row
    for part in ("coverage", "equal figures", "power", "equal recipes"):
        rows = [[name, *map(str, row.values())] for name, row in sorted(results[part].items())]
        print_table(part, ["", *next(iter(results[part].values()))], rows)
    write_result("paired_tests", results, options.output)


RESAMPLES, SEED = 1_000, 20
SWAPS = 400


def _simulated(job: tuple[str, str, int]) -> dict[str, Any]:
    """Return a row of a table; which sets are drawn depends on the name only."""
    part, name, sets = job
    rng = np.random.Generator(np.random.Philox([SEED, *name.encode()]))
    if part == "coverage":
        figure, size = name.split("|")
        return _coverage(figure, int(size), sets, rng)
    if part == "equal figures":
        return _rejections(PAIRS[name], sets, rng)
    if part == "power":
        return POWERS[name](rng, sets)
    return _seed_rejections(RECIPES[name], sets, rng)


@cache
def _true_value(figure: str) -> float:
    return FIGURES[figure](np.random.default_rng(SEED), TRUTH_ITEMS).value


def _coverage(figure: str, n: int, sets: int, rng: np.random.Generator) -> dict[str, Any]:
    draw, true = FIGURES[figure], _true_value(figure)
    methods: Counter[str] = Counter()
    num_held = num_given = 0
    for number in range(sets):
        found, method = interval_of(draw(rng, n), _names(n), Bootstrap(RESAMPLES, seed=number))
        methods[method] += 1
        if math.isfinite(found.low):
            num_given += 1
            num_held += found.low <= true <= found.high
    return {
        "given": _share(num_given, sets),
        "coverage": _share(num_held, num_given),
        "methods": dict(methods),
    }


def _rejections(draw: Pair, sets: int, rng: np.random.Generator) -> dict[str, Any]:
    num_rejected = num_tested = num_held = num_given = 0
    for number in range(sets):
        a, b = draw(rng)
        found = paired_difference(a, b, _names(len(a.columns)), Bootstrap(SWAPS, seed=number))
        if not math.isnan(found.p_value):
            num_tested += 1
            num_rejected += found.p_value <= 0.05
        if math.isfinite(found.low):
            num_given += 1
            num_held += found.low <= 0 <= found.high
    return {
        "tested": _share(num_tested, sets),
        "rejected": _share(num_rejected, num_tested),
        "interval given": _share(num_given, sets),
        "interval holds 0": _share(num_held, num_given),
    }


def _power_of_means(rng: np.random.Generator, sets: int, *, n: int) -> dict[str, Any]:
    true = detectable_by(1 / math.sqrt(n), freedom=n - 1)
    num_rejected = 0
    for number in range(sets):
        shared = rng.normal(0, 3, n)
        a, b = mean("score", shared + rng.normal(true, 1, n)), mean("score", shared)
        found = paired_difference(a, b, _names(n), Bootstrap(SWAPS, seed=number))
        num_rejected += found.p_value <= 0.05
    return {"difference": true, "power": _share(num_rejected, sets)}


def _power_of_mcnemar(
    rng: np.random.Generator, sets: int, *, n: int, discordant: float
) -> dict[str, Any]:
    true = minimum_detectable_paired_difference(n, discordant)
    shares = [(discordant + true) / 2, (discordant - true) / 2, 1 - discordant]
    num_rejected = 0
    for a_only, b_only, _ in rng.multinomial(n, shares, size=10 * sets):
        a = np.arange(a_only + b_only) < a_only
        num_rejected += mcnemar(a, ~a).p_value <= 0.05
    return {"difference": true, "power": _share(num_rejected, 10 * sets)}


POWERS: dict[str, Callable[[np.random.Generator, int], dict[str, Any]]] = {
    **{f"means, swaps, {n} items": partial(_power_of_means, n=n) for n in (10, 30, 100)},
    **{
        f"McNemar, {n} items, {discordant:.0%} differ": partial(
            _power_of_mcnemar, n=n, discordant=discordant
        )
        for n, discordant in ((100, 0.2), (500, 0.1), (500, 0.3))
    },
}


def _seed_rejections(draw: Recipes, sets: int, rng: np.random.Generator) -> dict[str, Any]:
    p_values = []
    for number in range(sets):
        a, b = draw(rng)
        groups = _names(len(a[0].columns))
        p_values.append(difference_over_seeds(a, b, groups, Bootstrap(SWAPS, seed=number)).p_value)
    return {"rejected": _share(sum(p <= 0.05 for p in p_values), sets)}


def _share(count: int, total: int) -> float | None:
    return round(count / total, 4) if total else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=400, help="simulated sets of each scenario")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
