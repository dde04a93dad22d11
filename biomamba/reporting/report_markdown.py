"""A report as Markdown, with its pictures and tables as files beside it."""

from collections.abc import Sequence

from biomamba.reporting.section import Part, Picture, Section, labels_of
from biomamba.reporting.tables import markdown_table


def report_markdown(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return the text; pictures are `<name>.png` in the same folder."""
    labels = labels_of(sections)
    lines = [f"# {_plain(title)}", "", _plain(subtitle), ""]
    for section in sections:
        lines += [f"## {_plain(section.title)}", ""]
        for part in section.parts:
            lines += [_part(part, labels), ""]
    return "\n".join(lines)


def _part(part: Part, labels: dict[str, str]) -> str:
    if isinstance(part, str):
        return _plain(part)
    caption = f"{labels[part.name]}. {_plain(part.caption)}"
    if isinstance(part, Picture):
        return f"{caption}\n\n![{labels[part.name]}]({part.name}.png)"
    header = [_cell(name) for name in part.header]
    table = markdown_table(header, [[_cell(cell) for cell in row] for row in part.rows])
    return f"{caption}\n\n{table}"


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Return a text on one line in which nothing is HTML."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
