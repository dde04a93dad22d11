"""Every shipped experiment composes, fits, has a small twin and a row in docs/experiments.md."""

import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import experiments as shipped
import pytest
from experiments import NAMES, REFERENCE, aspects, changes, composed, program_of, twin_of
from omegaconf import DictConfig

from biomamba.config.check import build, check_config
from biomamba.config.compose import compose_config
from biomamba.plan import run_settings
from biomamba.planning.hardware import Hardware
from biomamba.planning.plan import Plan, make_plan

PAGE = Path(__file__).parents[1] / "docs" / "experiments.md"
TRAINED = [name for name in NAMES if program_of(name) == "train"]
STARTED = shipped.ALL  # by test_experiment_starts.py
# One of each kind; the others take a minute together.
QUICK = {
    "ablation/mix_c4_5_wikipedia_10",
    "ablation/packing_leaky_small",
    "cpt/paper_release_2_7b",
    "cpt/prepare",
    "eval/cpt_small",
    "scaling/pubmed_3M_tokens",
    "sft/pubmedqa_bioasq_50_50",
}
# The reference under another name, where the name of a question asks for it.
SAME_AS_REFERENCE = {
    REFERENCE,
    "ablation/decontamination_on",
    "ablation/leakage_clean",
    "ablation/packing_reset",
    *(f"ablation/optimizer_{x}" for x in ("ema_on", "layer_decay_on", "lr_5e-6", "wsd")),
}
# No small model is published to continue with, and notes and some questions are not open.
UNLIKE_TWIN = {
    "cpt/biomamba1_130m_v1": {"is_scratch", "rate"},
    **{n: {"packing", "rate"} for n in TRAINED if n.startswith("sft/pubmedqa_bioasq")},
    **dict.fromkeys((n for n in TRAINED if re.match(r"sft/(qa|clinical|factoid)_", n)), None),
}


def marked(names: list[str]) -> list[Any]:
    slow = pytest.mark.slow
    return [pytest.param(name, marks=() if name in QUICK else slow) for name in names]


@pytest.mark.parametrize("name", marked(shipped.ALL))
def test_an_experiment_composes_with_its_program(name: str) -> None:
    cfg = composed(name)

    check_config(cfg)
    assert cfg.name == name or program_of(name) == "prepare"


def test_a_label_in_a_file_is_text() -> None:
    """YAML takes a bare yes or no for a truth value, as a key too."""
    bare = re.compile(r"^[^#\n]*(?<![\w\"])(?:yes|no|on|off)\s*:", re.IGNORECASE | re.MULTILINE)

    found = [
        path for path in shipped.FOLDER.parent.rglob("*.yaml") if bare.search(path.read_text())
    ]
    assert found == []


@pytest.fixture(scope="module")
def machines() -> dict[str, Any]:
    """Return what runs are planned on by the devices of their trainers."""
    found = {name: compose_config("plan", [f"hardware={name}"]) for name in ("v100_8", "cpu")}
    a100 = build(compose_config("plan", ["hardware=a100_8"]).hardware)
    return {
        "allowance": build(found["cpu"].allowance),
        "8 gpu": build(found["v100_8"].hardware),
        "1 gpu": replace(a100, devices_per_node=1),
        "1 cpu": build(found["cpu"].hardware).resolved(),
    }


def planned(cfg: DictConfig, machines: dict[str, Any]) -> Plan:
    """Plan a run on what its trainer asks for; epochs of unknown length count as ten steps."""
    if "epochs" in cfg.data.budget:
        cfg.data.budget.epochs = None
        cfg.max_tokens = 10 * cfg.tokens_per_step
    hardware: Hardware = machines[f"{cfg.trainer.devices} {cfg.trainer.accelerator}"]
    return make_plan(run_settings(cfg, hardware), hardware, machines["allowance"])


@pytest.mark.parametrize("name", marked(TRAINED))
def test_a_training_fits_the_machine_that_it_names(name: str, machines: dict[str, Any]) -> None:
    cfg = composed(name)
    plan = planned(cfg, machines)

    assert plan.memory.fits, plan.advice
    assert plan.run.parameters.trained_numel > 0
    assert plan.run.budget.num_steps == cfg.max_tokens // cfg.tokens_per_step
    assert not any("bf16" in line for line in plan.advice)
    head = (shipped.FOLDER / f"{name}.yaml").read_text().split("defaults:")[0]
    assert "V100" not in head or cfg.trainer.devices == 8


def test_an_experiment_has_a_twin_for_one_core() -> None:
    twins = {name: twin for name in NAMES if (twin := twin_of(name))}

    assert {name: twin for name, twin in twins.items() if twin not in NAMES} == {}
    assert all(program_of(twin) == program_of(name) for name, twin in twins.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRAINED if twin_of(name)])
def test_a_twin_differs_in_scale_alone(name: str) -> None:
    twin = twin_of(name)
    assert twin is not None
    ignored = UNLIKE_TWIN.get(name, set())
    if ignored is None:
        return
    found, expected = aspects(twin), aspects(name)
    is_compared_with_reference = name.startswith(("ablation/", "scaling/"))
    keys = changes(name) | changes(twin) if is_compared_with_reference else set(expected)

    for key in keys - ignored:
        assert found[key] == expected[key], key


@pytest.mark.slow
def test_an_ablation_changes_something() -> None:
    names = [n for n in TRAINED if n.startswith("ablation/") and twin_of(n)]

    assert {name for name in names if not changes(name)} == SAME_AS_REFERENCE


def test_the_points_of_the_mixture_are_those_of_the_paper() -> None:
    pattern = re.compile(r"ablation/mix(?:_c4_(\d+))?(?:_wikipedia_(\d+))?")
    found = {}
    for name in NAMES:
        match = pattern.fullmatch(name.replace("mix_pubmed_only", "mix"))
        if match:
            text = (shipped.FOLDER / f"{name}.yaml").read_text()
            parts = re.search(r"pubmed: ([\d._]+), c4: ([\d._]+), wikipedia: ([\d._]+)}", text)
            assert parts is not None
            found[tuple(int(part or 0) for part in match.groups())] = [*map(float, parts.groups())]
    alone = [(0, 0), (5, 0), (10, 0), (20, 0), (30, 0), (0, 10), (0, 20), (0, 30)]
    both = [(5, 5), (5, 10), (10, 5), (10, 10), (10, 20), (15, 15), (20, 10), (20, 20)]

    assert found.keys() == {*alone, *both}
    for (c4, wikipedia), weights in found.items():
        total = 100 + c4 + wikipedia
        assert weights == pytest.approx([100 / total, c4 / total, wikipedia / total], abs=1e-8)
        assert sum(weights) == pytest.approx(1, abs=1e-10)


CPT = [name for name in TRAINED if name.startswith("cpt/")]
PAPER_SCALE = [n for n in CPT if "small" not in n]


@pytest.mark.parametrize("name", CPT)
def test_continued_pretraining_has_a_limit_of_passes(name: str) -> None:
    limit = composed(name).data.max_repetition

    assert limit == (1 if "v1" in name else 4)


def test_an_experiment_that_repeats_much_is_not_refused() -> None:
    """Passes that the head of a file tells of, against the limit that it inherits."""
    told = {}
    for name in TRAINED:
        head = (shipped.FOLDER / f"{name}.yaml").read_text(encoding="utf-8").split("defaults:")[0]
        for number in re.findall(r"([\d.]+) (?:times:|passes over)", head):
            told[name] = float(number)
    assert {"ablation/leakage_leaky", "scaling/pubmed_1M_tokens"} <= told.keys()

    for name, passes in told.items():
        limit = composed(name).data.max_repetition
        assert limit is None or passes <= limit, name


def test_the_first_version_sees_its_abstracts_once() -> None:
    cfg = composed("cpt/biomamba1_130m_v1")
    tokens_per_abstract = cfg.max_tokens / 1_100_000

    assert 300 < tokens_per_abstract < 360
    assert cfg.data.max_repetition == 1
    assert cfg.max_tokens % cfg.tokens_per_step == 0
    # The 0.43 M abstracts of cpt/prepare would be passed over 2.4 times.
    assert "/corpora_medrag/" in cfg.sources.pubmed[0]


@pytest.mark.parametrize("name", [n for n in PAPER_SCALE if "v1" not in n])
def test_validation_comes_as_often_as_in_the_paper(name: str) -> None:
    cfg = composed(name)

    assert cfg.trainer.val_check_interval == 500
    assert cfg.callbacks.checkpoint.every_n_steps == 200


def starting_points() -> list[tuple[str, str, str]]:
    """Return (where, experiment, folder) of every model that is taken from a run of continued
    pretraining: in configurations, the README, docs and scripts."""
    root = PAGE.parents[1]
    files = [root / "README.md", *(root / "docs").rglob("*.md"), *(root / "slurm").iterdir()]
    files += shipped.FOLDER.parent.rglob("*.yaml")
    taken = re.compile(r"runs/(cpt/[\w{}<>]+)/(?:first|seed_\d)/(model\w*)")
    return [
        (path.relative_to(root).as_posix(), name, folder)
        for path in files
        if path.is_file()
        for name, folder in taken.findall(path.read_text(encoding="utf-8"))
    ]


def test_a_run_that_keeps_an_average_is_continued_from_it() -> None:
    found = starting_points()
    assert len(found) > 15
    for where, name, folder in found:
        known = re.sub(r"[{<]scale[}>]", "130m" if "mamba2_" in name else "mamba2_130m", name)
        is_averaged = composed(known).callbacks.ema is not None
        assert folder == ("model_ema" if is_averaged else "model"), (where, name)
    chain = (shipped.FOLDER.parent / "chain" / "_paper.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"{cpt}/(\w+)", chain)) == {"model_ema"}


# Source: LeoYML/BioMamba@e61db22. Rate, epochs, weight decay, warm-up, samples of a batch, and the
# share of BioASQ or the training items of each task.
FINE_TUNED = {
    "sft/qa_130m": (3e-5, 3, 0.01, 0.1, 128, 0.65),
    "sft/qa_370m": (3e-5, 2, 0.01, 0.1, 64, 0.70),
    "sft/qa_780m": (2e-5, 5, 0.03, 0.15, 64, 0.65),
    "sft/qa_1_3b": (7e-6, 3, 0.03, 0.15, 32, 0.70),
    "sft/qa_2_7b": (2e-5, 5, 0.01, 0.1, 32, 0.65),
    "sft/clinical_130m": (1e-5, 5, 0.01, 0.1, 32, 30_000),
    "sft/clinical_370m": (1e-5, 5, 0.01, 0.1, 32, 30_000),
    "sft/clinical_780m": (7.5e-6, 6, 0.01, 0.12, 32, 20_000),
    "sft/clinical_1_3b": (9e-6, 6, 0.01, 0.12, 32, 20_000),
    "sft/clinical_2_7b": (5e-6, 5, 0.01, 0.1, 32, 30_000),
}


@pytest.mark.parametrize("name", FINE_TUNED)
def test_fine_tuning_has_the_settings_of_the_release(name: str) -> None:
    cfg = composed(name)
    optimizer, schedule, budget = cfg.optimizer, cfg.schedule, cfg.data.budget
    share = (
        cfg.data.shares.bioasq_yesno
        if "qa" in name
        else cfg.tasks.note_completion_paper_sft.max_train_items
    )

    found = (optimizer.lr, budget.epochs, optimizer.weight_decay, schedule.warmup_ratio)
    assert (*found, cfg.tokens_per_step // budget.seq_len, share) == FINE_TUNED[name]
    assert (schedule.min_lr_ratio, schedule.shape, cfg.seed) == (0.0, "cosine", 42)
    assert schedule.warmup_ratio + schedule.decay_ratio == pytest.approx(1)


def test_what_differs_from_the_paper_is_named() -> None:
    """A file of the paper's scale names its deviations, itself or in what it builds on."""
    for name in (n for n in TRAINED if re.match(r"(cpt|sft)/.*(130m|370m|780m|1_3b|2_7b)", n)):
        texts = [(shipped.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")]
        for base in re.findall(r"- /experiment/([\w/]+)", texts[0]):
            texts.append((shipped.FOLDER / f"{base}.yaml").read_text(encoding="utf-8"))
            texts += [
                (shipped.FOLDER / f"{further}.yaml").read_text(encoding="utf-8")
                for further in re.findall(r"- /experiment/([\w/]+)", texts[-1])
            ]
        assert any("Deviation:" in text for text in texts), name


def table() -> dict[str, list[str]]:
    """Return the cells of each row of the page by the experiment."""
    rows = re.findall(r"^\| `(\w+/[\w.-]+)` \|(.+)\|$", PAGE.read_text(), flags=re.MULTILINE)
    assert max(Counter(name for name, _ in rows).values()) == 1
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def test_the_page_tells_of_every_experiment() -> None:
    rows = table()
    twins = {twin for name in NAMES if (twin := twin_of(name))}

    assert rows.keys() == set(NAMES) - (twins - rows.keys())
    for name, (question, read_out, twin, command) in rows.items():
        assert question
        assert read_out
        assert twin == (f"`{twin_of(name)}`" if twin_of(name) else "-")
        assert command == f"`{program_of(name)} +experiment={name}`"


def test_what_this_covers_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {
        program: [
            sum(program_of(name) == program for name in names)
            for names in (shipped.ALL, shipped.ALL, TRAINED, STARTED)
        ]
        for program in sorted({program_of(name) for name in shipped.ALL})
    }
    lines = [f"{'program':<12}experiments  composed  planned  started"]
    for program, (there, *tested) in counts.items():
        lines.append(f"{program:<12}{there:>11}{tested[0]:>10}{tested[1]:>9}{tested[2]:>9}")
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")

    assert counts["train"][0] == counts["train"][2] == counts["train"][3]
    assert all(started == there for there, _, _, started in counts.values())


@pytest.mark.parametrize("name", ["v100_8", "a100_8", "h100_8", "gpu_1", "cpu"])
def test_a_machine_has_a_trainer_whose_precision_it_computes(name: str) -> None:
    trainers = {"v100_8": "v100_8", "a100_8": "gpu_8", "h100_8": "gpu_8"}
    cfg = compose_config("plan", [f"hardware={name}", f"trainer={trainers.get(name, name)}"])
    hardware: Hardware = build(cfg.hardware)

    assert hardware.world_size == cfg.trainer.devices
    if hardware.peak_tflops:
        assert cfg.trainer.precision in hardware.peak_tflops
        assert cfg.trainer.precision == ("bf16-mixed" if hardware.is_bf16_capable else "16-mixed")
        assert hardware.assumed_utilisation
        assert hardware.memory_gib is not None
