"""Tables of groups: what says nothing is left out of the cells, not of the CSV file."""

import math

from biomamba.metrics.measure import Interval
from biomamba.metrics.significance import Difference
from biomamba.reporting.metadata import GroupFigure, figures_table

BASE = GroupFigure(
    source="s",
    group="2001",
    model="base",
    num_documents=1_200,
    bits=Interval(1.5, 1.25, 1.75),
    perplexity=None,
    change=None,
)
NEW = GroupFigure(
    source="s",
    group="2001",
    model="new",
    num_documents=1_200,
    bits=Interval(1.25, math.nan, math.nan),
    perplexity=None,
    change=Difference(-0.25, -0.5, 0.125, 0.0001, 0.1, "swaps"),
    p_holm=0.25,
)


def test_cells_show_values_with_their_intervals() -> None:
    table = figures_table("t", "", "year", [BASE, NEW], ["f"])
    assert table.header == [
        *("source", "year", "documents", "model", "bits per byte", "change", "p", "p (Holm)")
    ]
    assert table.rows == [
        ["s", "2001", "1,200", "base", "1.500 [1.250, 1.750]", "-", "-", "-"],
        ["s", "2001", "1,200", "new", "1.250", "-0.250 [-0.500, +0.125]", "<0.001", "0.250"],
    ]


def test_the_csv_has_all_columns_and_nothing_for_what_is_not_known() -> None:
    lines = figures_table("t", "", "year", [BASE, NEW], []).csv().splitlines()
    assert lines[0] == (
        "source,year,documents,model,bits_per_byte,bits_per_byte_low,bits_per_byte_high,"
        "perplexity,perplexity_low,perplexity_high,change,change_low,change_high,p,p_holm"
    )
    assert lines[1:] == [
        "s,2001,1200,base,1.5,1.25,1.75,,,,,,,,",
        "s,2001,1200,new,1.25,,,,,,-0.25,-0.5,0.125,0.0001,0.25",
    ]
