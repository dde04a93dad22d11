"""Draw what the committed results say, without measuring anything.

    python benchmarks/speed_plots.py

Reads model_speed.json, decode_speed.json, loss_memory.json and long_rows.json in
benchmarks/results/ and writes speeds.png beside them. Dashed lines are the bars.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

RESULTS = Path(__file__).parent / "results"
COLOURS = {"fp32": "#1b6ca8", "bf16": "#d1495b"}
GREY = "#9aa5b1"


def main() -> None:
    """Draw the four panels."""
    mpl.use("agg")
    figure, panels = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    training(panels[0, 0])
    decoding(panels[0, 1])
    loss_memory(panels[1, 0])
    row_memory(panels[1, 1])
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
    path = RESULTS / "speeds.png"
    figure.savefig(path, dpi=130)
    print(path)


def results_of(name: str) -> dict[str, Any]:
    """Return the figures of a benchmark."""
    content = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = content["results"]
    return found


def training(panel: Axes) -> None:
    """Speed of a training step in units of that of transformers in fp32."""
    found = results_of("model_speed")
    names = [name for name in found if isinstance(found[name], dict) and "cases" in found[name]]
    for offset, kind in ((-0.2, "fp32"), (0.2, "bf16")):
        ratios = [found[n]["cases"][f"ours {kind}"]["times"]["transformers fp32"] for n in names]
        places = [place + offset for place in range(len(names))]
        medians = [ratio["median"] for ratio in ratios]
        reach = [
            [ratio["median"] - ratio["min"] for ratio in ratios],
            [ratio["max"] - ratio["median"] for ratio in ratios],
        ]
        panel.bar(places, medians, 0.38, yerr=reach, color=COLOURS[kind], label=f"ours, {kind}")
        bar = found["bars"][kind]["transformers fp32"]
        panel.axhline(bar, color=COLOURS[kind], linestyle="--", linewidth=1)
    panel.axhline(1, color=GREY, linewidth=1)
    panel.set_xticks(range(len(names)), [name.replace(", ", "\n") for name in names])
    panel.set_ylabel("times transformers in fp32")
    panel.set_title("Training step on the CPU")
    panel.legend(frameon=False)


def decoding(panel: Axes) -> None:
    """Milliseconds per generated token of all rows."""
    batches = results_of("decode_speed")["batches"]
    names = list(next(iter(batches.values()))["milliseconds_per_step"])
    colours = [GREY, "#c9ced6", COLOURS["fp32"], COLOURS["bf16"]]
    for number, (name, colour) in enumerate(zip(names, colours, strict=True)):
        values = [found["milliseconds_per_step"][name]["median"] for found in batches.values()]
        places = [place + (number - 1.5) * 0.2 for place in range(len(batches))]
        bars = panel.bar(places, values, 0.19, color=colour, label=name)
        panel.bar_label(bars, fmt="%.0f", fontsize=8)
    panel.set_xticks(
        range(len(batches)), [f"{rows} row{'s' if rows != '1' else ''}" for rows in batches]
    )
    panel.set_ylabel("milliseconds per step")
    panel.set_title("Generation, shape of 130m")
    panel.legend(frameon=False)


def loss_memory(panel: Axes) -> None:
    """Memory of the loss in units of the full logits in fp32."""
    found = results_of("loss_memory")
    cases = [name for name in found if isinstance(found[name], dict)]
    for offset, name, colour in (
        (-0.2, "full logits", GREY),
        (0.2, "linear_cross_entropy", COLOURS["fp32"]),
    ):
        values = [found[case][name]["share_of_logits"]["median"] for case in cases]
        places = [place + offset for place in range(len(cases))]
        bars = panel.bar(places, values, 0.38, color=colour, label=name)
        panel.bar_label(bars, fmt="%.3f", fontsize=8)
    panel.axhline(1 / 8, color=COLOURS["fp32"], linestyle="--", linewidth=1)
    panel.set_yscale("log")
    panel.set_xticks(range(len(cases)), [f"{case.replace(' ', ' rows, ')}" for case in cases])
    panel.set_ylim(0.04, 20)
    panel.set_ylabel("extra memory / full fp32 logits")
    panel.set_title("Loss over a vocabulary of 50,288")
    panel.legend(frameon=False)


def row_memory(panel: Axes) -> None:
    """Memory of a training row by its length."""
    found = results_of("long_rows")
    cases = {int(name.split()[1]): found[name] for name in found if name.startswith("training ")}
    for name, label, colour in (
        ("whole", "at once", GREY),
        ("segments", "in segments of 2,048", COLOURS["fp32"]),
    ):
        values = [_number(case[name]["extra_bytes"]) / 1e6 for case in cases.values()]
        panel.plot(list(cases), values, marker="o", color=colour, label=label)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(list(cases), [f"{length:,}" for length in cases])
    panel.set_xlabel("tokens of a row")
    panel.set_ylabel("megabytes")
    panel.set_title("Memory of a training row")
    panel.legend(frameon=False)


def _number(value: Any) -> float:
    """Return a figure, or the median of several."""
    return float(value["median"] if isinstance(value, dict) else value)


if __name__ == "__main__":
    main()
