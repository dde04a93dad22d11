"""Reports as Markdown."""

from biomamba.reporting.report import report_markdown
from biomamba.reporting.section import Picture, Section, Table


def test_sections_become_headings_tables_and_pictures() -> None:
    table = Table(name="t", caption="All", header=["a|b", "n"], rows=[["x|y", "<1"]])
    picture = Picture(name="p", caption="Seen", png=b"")
    lines = report_markdown("R", "two", [Section("S", ["Some\ntext", table, picture])]).splitlines()

    assert [line for line in lines if line] == [
        "# R",
        "two",
        "## S",
        "Some text",
        "Table 1. All",
        "| a\\|b |     n |",
        "|------|------:|",
        "| x\\|y | &lt;1 |",
        "Figure 1. Seen",
        "![Figure 1](p.png)",
    ]
