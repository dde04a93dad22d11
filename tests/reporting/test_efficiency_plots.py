"""Growth as a picture."""

import pytest

from biomamba.reporting.efficiency import Line, growth_plot

LINE = Line([64, 128], [1.0, 2.0], [0.9, 1.9], [1.1, 2.1])


@pytest.mark.parametrize(
    "panels",
    [
        {"ms": {"a": LINE}},
        {"ms": {"a": LINE, "b": Line([64], [3.0], ends_at=128)}, "GiB": {"b": LINE}},
        {"ms": {"a": Line([], [], ends_at=64)}, "GiB": {"a": LINE}, "tokens": {"a": LINE}},
    ],
)
def test_lines_are_drawn(panels: dict[str, dict[str, Line]]) -> None:
    assert growth_plot(panels).startswith(b"\x89PNG")
