"""Our checkpoints as a model of lm-evaluation-harness."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from biomamba.data.tokenizer import Tokenizer, write_tokenizer
from biomamba.evaluation import harness
from biomamba.evaluation.harness import HarnessAnswers
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.checkpoint import load_pretrained, save_pretrained
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import ConfigError, DataError, MissingDependencyError
from biomamba.training.export import ExportFormat, export, find_source

TEXTS = [
    "Metformin lowers the glucose of patients. Is it safe? Answer: yes",
    "Aspirin prevents a stroke. Does it cure asthma? Answer: no, maybe not",
]
PAIRS = [
    ("Is it safe? Answer:", " yes"),
    ("Is it safe? Answer:", " no, maybe not"),
    ("Does it cure asthma?  ", "Answer"),  # spaces at the end of a context
    ("", "Aspirin prevents"),
    ("Metformin lowers the glucose of pat", "ients"),  # a token spans the boundary
]


@dataclass(frozen=True)
class Request:
    """What the harness asks: texts in `args`."""

    args: tuple[Any, ...]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small model whose next ids are far from equally likely."""
    path, tokenizer = tmp_path_factory.mktemp("model"), Tokenizer.train_bpe(TEXTS, 330)
    torch.manual_seed(0)
    config = Mamba2Config(
        d_model=16, n_layer=2, vocab_size=tokenizer.vocab_size, d_state=8, headdim=8
    )
    model = MambaLM(config, ChunkedScan())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.3)
    save_pretrained(model, path)
    write_tokenizer(tokenizer, path)
    return path


def load(folder: Path, **settings: Any) -> HarnessAnswers:
    return HarnessAnswers(str(folder), device="cpu", **settings)


def requests(*args: Any) -> list[Request]:
    return [Request(each) for each in args]


class Plain:
    """The same model through plain forward passes over one row."""

    def __init__(self, folder: Path) -> None:
        self.model = load_pretrained(folder, ChunkedScan()).eval()
        self.tokenizer = Tokenizer.load(str(folder / "tokenizer.json"))

    def score(self, before: Sequence[int], ids: Sequence[int]) -> tuple[float, bool]:
        with torch.no_grad():
            logits = self.model(torch.tensor([[*before, *ids]]))[0, len(before) - 1 : -1]
        chosen = logits.double().log_softmax(-1)[range(len(ids)), list(ids)]
        return float(chosen.sum()), bool((logits.argmax(-1) == torch.tensor(ids)).all())


@pytest.mark.parametrize("add_bos_token", [False, True])
def test_a_text_is_scored_behind_its_context(folder: Path, add_bos_token: bool) -> None:
    plain = Plain(folder)
    encode = plain.tokenizer.encode
    expected = []
    for context, text in PAIRS:
        kept = context.rstrip()
        joined, before = encode(context + text), encode(kept)
        mark = [0] if add_bos_token or not before else []
        expected.append(plain.score([*mark, *before], joined[len(before) :]))

    found = load(folder, add_bos_token=add_bos_token).loglikelihood(requests(*PAIRS))

    for mine, theirs in zip(found, expected, strict=True):
        assert mine == (pytest.approx(theirs[0], rel=1e-5), theirs[1])


def test_the_greedy_text_is_known_as_such(folder: Path) -> None:
    model, encode = load(folder), Plain(folder).tokenizer.encode
    contexts = [TEXTS[0][:end] for end in range(4, 40)]
    texts = model.generate_until(requests(*((c, {"max_gen_toks": 1}) for c in contexts)))
    pairs = [
        (context, text)
        for context, text in zip(contexts, texts, strict=True)
        if len(encode(context + text)) == len(encode(context)) + 1 and not context.endswith(" ")
    ]
    assert len(pairs) > 3

    found = model.loglikelihood(requests(*pairs))
    others = model.loglikelihood(requests(*((context, "#") for context, _ in pairs)))

    assert all(is_greedy for _, is_greedy in found)
    assert not any(is_greedy for _, is_greedy in others)


def test_answers_do_not_depend_on_the_batch(folder: Path) -> None:
    together, alone = load(folder, batch_size=8), load(folder, batch_size="1")
    asked = requests(*PAIRS)

    for mine, theirs in zip(together.loglikelihood(asked), alone.loglikelihood(asked), strict=True):
        assert mine[0] == pytest.approx(theirs[0], rel=1e-5)
    texts = requests(*((context, {"max_gen_toks": 6}) for context, _ in PAIRS))
    assert together.generate_until(texts) == alone.generate_until(texts)


@pytest.mark.parametrize("max_length", [5, 8, 1000])
def test_every_token_of_a_text_is_scored_once_behind_all_that_fits(
    folder: Path, max_length: int
) -> None:
    plain = Plain(folder)
    ids = plain.tokenizer.encode(TEXTS[0])
    assert 13 < len(ids) < 1000
    expected = 0.0
    for begin in range(0, len(ids), max_length):
        window = ids[begin : begin + max_length]
        whole = [0, *ids[: begin + len(window)]][-max_length - 1 :]
        expected += plain.score(whole[: -len(window)], window)[0]

    found = load(folder, max_length=max_length).loglikelihood_rolling(requests((TEXTS[0],), ("",)))

    assert found == [pytest.approx(expected, rel=1e-5), 0.0]


def test_a_long_context_is_cut_on_the_left(folder: Path) -> None:
    plain = Plain(folder)
    context, text = TEXTS[0], " yes"
    before = plain.tokenizer.encode(context)
    ids = plain.tokenizer.encode(context + text)[len(before) :]
    read = [*before, *ids][-7:]

    found = load(folder, max_length=6).loglikelihood(requests((context, text)))[0]

    assert found[0] == pytest.approx(plain.score(read[: -len(ids)], ids)[0], rel=1e-5)
    model = load(folder, max_length=10)
    short = plain.tokenizer.decode(before[-6:])
    assert plain.tokenizer.encode(short) == before[-6:]
    settings = {"max_gen_toks": 4}
    texts = model.generate_until(requests((context, settings), (short, settings)))
    assert texts[0] == texts[1]


def test_texts_end_where_a_task_says(folder: Path) -> None:
    model = load(folder)
    whole = model.generate_until(requests((TEXTS[0], {"max_gen_toks": 12})))[0]
    stop = whole[3:5]

    found = model.generate_until(
        requests(
            (TEXTS[0], {"max_gen_toks": 12, "until": [stop]}),
            (TEXTS[0], {"max_new_tokens": 12, "until": stop, "temperature": 0.7, "top_k": 5}),
            (TEXTS[0], {"max_gen_toks": 12, "until": ["", "no such text"], "do_sample": False}),
        )
    )

    assert found == [whole[: whole.find(stop)], whole[: whole.find(stop)], whole]


@pytest.mark.parametrize(
    "settings",
    [{"do_sample": True, "temperature": 0.7}, {"num_beams": 4}, {"repetition_penalty": 1.2}],
)
def test_anything_but_the_greedy_text_is_refused(folder: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the model biomamba is greedy"):
        load(folder).generate_until(requests(("a", settings)))


@pytest.mark.parametrize("settings", [{"batch_size": "auto"}, {"max_length": 0}])
def test_a_size_that_is_none_is_refused(folder: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be a whole number of at least 1"):
        load(folder, **settings)


def test_more_new_tokens_than_fit_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="leave no room for a context: max_length=8"):
        load(folder, max_length=8).generate_until(requests(("a", {"max_gen_toks": 8})))


def test_a_missing_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    save_pretrained(load_pretrained(folder, ChunkedScan()), tmp_path)

    with pytest.raises(DataError, match="tokenizer_file="):
        load(tmp_path)


def test_a_missing_harness_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)

    with pytest.raises(MissingDependencyError, match=r"pip install 'biomamba\[harness\]'"):
        harness.register()


class StubModel:
    """The base class of the models of a harness."""

    def __init__(self) -> None:
        self._rank, self._world_size, self._device = 0, 1, None


def stub_harness(monkeypatch: pytest.MonkeyPatch, run: Any) -> dict[str, type]:
    """Put a harness in the place of the real one; return its models."""
    known: dict[str, type] = {}

    def module(name: str, **content: Any) -> None:
        made = ModuleType(name)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)

    def register_model(name: str) -> Any:
        assert name not in known
        return lambda cls: known.setdefault(name, cls)

    module("lm_eval")
    module("lm_eval.api")
    module("lm_eval.api.model", LM=StubModel)
    module("lm_eval.api.registry", register_model=register_model)
    module("lm_eval.__main__", cli_evaluate=run)
    return known


def test_the_model_is_registered_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = stub_harness(monkeypatch, None)

    made = harness.register()

    assert harness.register() is made
    assert known == {"biomamba": made}
    assert issubclass(made, StubModel)
    model = made(str(folder), device="cpu")
    assert model._rank == 0
    assert model._device == torch.device("cpu")
    assert model.loglikelihood(requests(*PAIRS)) == load(folder).loglikelihood(requests(*PAIRS))


def test_the_command_line_is_that_of_the_harness(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known: dict[str, type] = {}

    def run() -> None:
        assert "biomamba" in known
        raise ConfigError("max_length=0: must be more")

    known = stub_harness(monkeypatch, run)
    with pytest.raises(SystemExit) as stop:
        harness.main()

    assert stop.value.code == 2
    assert capsys.readouterr().err == "\nerror: max_length=0: must be more\n"


# The tests below need the real package: pip install 'biomamba[harness]'.


@pytest.fixture
def lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    found: ModuleType = pytest.importorskip(
        "lm_eval", reason="lm-eval is not installed: pip install 'biomamba[harness]'"
    )
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("max_length", [12, 2_048])
def test_the_harness_gets_what_its_own_model_of_transformers_says(
    folder: Path, tmp_path: Path, lm_eval: ModuleType, max_length: int
) -> None:
    pytest.importorskip("accelerate", reason="the harness needs it for its model of transformers")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    exported = tmp_path / "exported"
    form = ExportFormat(name="transformers", dtype="float32", container="safetensors")
    tokenizer = Tokenizer.load(str(folder / "tokenizer.json"))
    export(find_source(str(folder), "model"), form, exported, tokenizer, {})
    theirs = HFLM(pretrained=str(exported), device="cpu", batch_size=3, max_length=max_length)
    ours = harness.register()(str(folder), device="cpu", batch_size=2, max_length=max_length)

    def asked(kind: str, *args: Any) -> list[Any]:
        return [Instance(kind, {}, each, n) for n, each in enumerate(args)]

    pairs = asked("loglikelihood", *PAIRS, (TEXTS[0], " yes"))
    for mine, other in zip(ours.loglikelihood(pairs), theirs.loglikelihood(pairs), strict=True):
        assert mine == (pytest.approx(other[0], rel=1e-4), other[1])
    texts = asked("loglikelihood_rolling", *((text,) for text in TEXTS))
    assert ours.loglikelihood_rolling(texts) == pytest.approx(
        theirs.loglikelihood_rolling(texts), rel=1e-4
    )
    settings = {"until": ["s"], "max_gen_toks": 6}
    prompts = asked("generate_until", *((context, settings) for context, _ in PAIRS if context))
    assert ours.generate_until(prompts) == theirs.generate_until(prompts)


@pytest.mark.filterwarnings("ignore")
def test_a_task_of_the_harness_runs_from_its_command_line(
    folder: Path, tmp_path: Path, lm_eval: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"q": f"Is {n} safe?", "answer": n % 2} for n in range(6)]
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "toy.yaml").write_text(
        "task: toy\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        'doc_to_text: "{{q}} Answer:"\ndoc_to_choice: ["no", "yes"]\ndoc_to_target: answer\n'
        "metric_list: [{metric: acc}]\n"
    )
    arguments = ["--model", "biomamba", "--model_args", f"checkpoint={folder}", "--tasks", "toy"]
    arguments += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["harness", *arguments])

    harness.main()

    (results,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(results.read_text())["results"]["toy"]
    ours = load(folder)
    right = 0
    for row in rows:
        pairs = requests(*((f"{row['q']} Answer:", f" {word}") for word in ("no", "yes")))
        scores = [value for value, _ in ours.loglikelihood(pairs)]
        right += scores.index(max(scores)) == row["answer"]
    assert found["acc,none"] == pytest.approx(right / 6)
