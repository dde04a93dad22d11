"""Records of tasks as a table."""

from biomamba.evaluation.records import TaskRecord
from biomamba.reporting.tables import filter_notes, task_table


def make_record(model: str, value: float, **changes: object) -> TaskRecord:
    values: dict[str, object] = {
        "task": "pubmedqa",
        "protocol": "pqal-500-3way",
        "split": "test",
        "metric": "accuracy",
        "value": value,
        "low": value - 0.04,
        "high": value + 0.05,
        "level": 0.95,
        "method": "wilson",
        "n": 500,
        "n_groups": 500,
        "seed": 1,
        "model": model,
        "prompt": "qa_v1",
        "prompt_fingerprint": "p" * 64,
        "checkpoint_sha256": "c" * 64,
        "data_fingerprint": "d" * 64,
        "provenance": {},
    }
    return TaskRecord(**(values | changes))  # type: ignore[arg-type]


def cells(table: str) -> list[list[str]]:
    lines = [line.strip("|").split("|") for line in table.splitlines()]
    return [[cell.strip() for cell in line] for n, line in enumerate(lines) if n != 1]


RECORDS = [
    make_record("base", 0.5, minimum_detectable_difference=0.0887),
    make_record("adapted", 0.6, minimum_detectable_difference=0.0856),
    make_record(
        "adapted",
        0.1,
        metric="accuracy_change",
        against="base",
        p_value=0.0123,
        mcnemar={"p_value": 0.0234},
    ),
    make_record("base", 0.4, task="notes", n_groups=312, metric="rouge1", method="bootstrap"),
    make_record("majority", 0.55),
    make_record("random", 0.334),
]


def test_a_line_holds_models_simple_answers_and_the_change() -> None:
    header, first, second = cells(task_table(RECORDS))

    assert header == [
        *("task", "metric", "n", "majority", "random", "base", "adapted"),
        *("interval", "detectable", "change adapted", "p", "McNemar p", "filtered"),
    ]
    assert first == [
        *("pubmedqa", "accuracy", "500", "0.550", "0.334"),
        *("0.500 [0.460, 0.550]", "0.600 [0.560, 0.650]", "wilson", "0.089"),
        *("+0.100 [+0.060, +0.150]", "0.0123", "0.0234", "unknown"),
    ]
    assert second == [
        *("notes", "rouge1", "500 (312 groups)", "-", "-"),
        *("0.400 [0.360, 0.450]", "-", "bootstrap", "-", "-", "-", "-", "unknown"),
    ]


def test_one_model_has_no_columns_of_changes() -> None:
    (header, line) = cells(task_table(RECORDS[:1]))

    assert header == ["task", "metric", "n", "base", "interval", "detectable", "filtered"]
    assert line[-2:] == ["0.089", "unknown"]


def test_a_figure_without_an_interval_has_none() -> None:
    nan = float("nan")
    record = make_record("base", 0.0, low=nan, high=nan, method="none: no group differs")

    assert cells(task_table([record]))[1][3:5] == ["0.000", "none: no group differs"]


def test_intervals_made_in_two_ways_name_both() -> None:
    records = [make_record("base", 0.0, method="none"), make_record("adapted", 0.1)]

    assert cells(task_table(records))[1][5] == "none; wilson"


def test_every_line_says_whether_the_test_was_filtered_out_of_the_training_data() -> None:
    base = make_record("base", 0.5, filtered="unknown", filter_reasons=["the Pile: unknown"])
    adapted = make_record("adapted", 0.6, filtered="filtered")
    majority = make_record("majority", 0.4)

    assert cells(task_table([base, adapted, majority]))[1][-1] == "base: unknown; adapted: filtered"
    assert cells(task_table([adapted, majority]))[1][-1] == "filtered"
    assert cells(task_table([majority]))[1][-1] == "-"
    assert filter_notes([base, base, adapted]) == ["base on pubmedqa: unknown: the Pile: unknown"]


def test_rows_that_are_no_items_stand_beside_the_number_of_items() -> None:
    new = make_record("base", 0.5, rejects={"row is not JSON": 20, "answer is secret": 1})
    old = make_record("base", 0.5, provenance={"rejects": {"row is not JSON": 20}})

    assert cells(task_table([new]))[1][2] == (
        "500 (left out: 20 row is not JSON; left out: 1 answer is secret)"
    )
    assert cells(task_table([old]))[1][2] == "500 (left out: 20 row is not JSON)"
