"""The report in a real browser: one file, light and dark, on a desk and on a phone."""

from pathlib import Path
from typing import Any

import pytest

from biomamba.config.compose import compose_config
from biomamba.report import main

pytestmark = pytest.mark.browser

DESK, PHONE = {"width": 1_280, "height": 860}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def report(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("report")
    main(compose_config("report", [f"runs=[{run_folder}]", f"output={output}"]))
    return output / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desk", "phone"])
def test_the_report_is_whole_and_fits(report: Path, screen: Any, size: str, scheme: str) -> None:
    viewport = DESK if size == "desk" else PHONE
    window = screen.open(viewport=viewport, color_scheme=scheme, is_mobile=size == "phone")
    page = window.page
    page.goto(report.as_uri(), wait_until="load")
    window.wait_for("BioMamba report", "biomedical")
    widths = page.evaluate("[...document.images].map(picture => picture.naturalWidth)")
    assert widths
    assert all(width > 0 for width in widths)
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth") <= viewport["width"]
    colours = page.evaluate(
        "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
    )
    text, ground = (sum(int(n) for n in found.strip("rgb()").split(",")) for found in colours)
    assert (ground > text) == (scheme == "light")
    assert abs(ground - text) > 3 * 100
    assert {url.partition(":")[0] for url in window.asked} <= {"file", "data"}
    assert [url for url in window.asked if url.startswith("file:")] == [report.as_uri()]
    assert window.errors == []
    window.picture(f"report_{size}_{scheme}")
    page.locator("img").first.scroll_into_view_if_needed()
    window.picture(f"report_{size}_{scheme}_curves")
    page.close()
