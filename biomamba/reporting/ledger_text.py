"""The answers of a ledger as text."""

from collections.abc import Mapping, Sequence

from biomamba.data.document_lookup import StoredDocument
from biomamba.data.ledger import Ledger
from biomamba.data.ledger_queries import Comparison, Sighting, SourceTotals
from biomamba.reporting.tables import markdown_table

_MAX_REPEATS = 8


def coverage(ledger: Ledger) -> str:
    """Say which steps the ledger records, and which it does not."""
    last = ledger.end_step - 1
    lines = [f"{ledger.folder}: {ledger.num_steps:,} steps recorded, the last is step {last:,}"]
    lines += [f"steps {first:,} to {end - 1:,} are NOT recorded" for first, end in ledger.gaps]
    if ledger.num_unfinished_steps:
        lines.append(
            f"{ledger.num_unfinished_steps:,} further steps were not written by all ranks and "
            "are left out"
        )
    return "\n".join(lines)


def summary(found: Mapping[str, SourceTotals], epoch_tokens: Mapping[str, int]) -> str:
    """Return tokens, share, epochs and repetition of each source; epochs where they are known."""
    total = max(1, sum(source.tokens for source in found.values()))
    header = ["source", "tokens", "share", "epochs", "documents", "times begun: documents"]
    rows = [
        [
            name,
            f"{source.tokens:,}",
            f"{source.tokens / total:.2%}",
            f"{source.tokens / epoch_tokens[name]:.3f}" if epoch_tokens.get(name) else "-",
            f"{source.documents:,}",
            _repeats(source.repeats),
        ]
        for name, source in found.items()
    ]
    return markdown_table(header, rows)


def sighting_table(found: Sequence[Sighting]) -> str:
    """Return one line per time that a piece of a document was trained on."""
    header = ["step", "source", "epoch", "tokens", "of its tokens"]
    rows = [
        [
            f"{sighting.step:,}",
            sighting.source,
            str(sighting.epoch),
            f"{sighting.tokens:,}",
            f"{sighting.start:,} to {sighting.start + sighting.tokens - 1:,}",
        ]
        for sighting in found
    ]
    return markdown_table(header, rows)


def verdict(source: str, found: Sequence[Sighting], stored: StoredDocument | str | None) -> str:
    """Say in one line whether a source trained on a document, and if not, why.

    `stored` is where its stores hold the document, None if they do not, or why that is not known.
    """
    if found:
        epochs = max(sighting.epoch for sighting in found) + 1
        covered = len(set[int]().union(*(_span(sighting) for sighting in found)))
        of_all = f" of {stored.tokens:,}" if isinstance(stored, StoredDocument) else ""
        steps = len({sighting.step for sighting in found})
        return (
            f"{source}: TRAINED ON in {steps:,} step(s), {epochs} time(s); {covered:,}{of_all} "
            f"tokens, {sum(s.tokens for s in found):,} with repetition"
        )
    not_met = f"{source}: not in the recorded steps"
    if isinstance(stored, str):
        return f"{not_met}; whether it is in the corpus is not known: {stored}"
    if stored is None:
        return f"{not_met}; not in the corpus: no split of its stores holds it"
    if stored.split == "train":
        return f"{not_met}; not seen so far, it is in the train split of {stored.folder}"
    return f"{not_met}; HELD OUT in the {stored.split} split of {stored.folder}"


def comparison(first: str, second: str, found: Comparison, *, last_steps: tuple[int, int]) -> str:
    """Say whether two runs saw the same, and what each of them alone has seen."""
    if found.first_difference is None:
        order = f"the {found.num_compared_steps:,} steps that both record are the same"
    else:
        order = f"the first step that differs is {found.first_difference:,}"
    if last_steps[0] != last_steps[1]:
        longer = first if last_steps[0] > last_steps[1] else second
        order += f"; {longer} has {abs(last_steps[0] - last_steps[1]):,} steps more"
    header = ["source", "seen by both", f"only {first}", f"only {second}", "shared"]
    rows = [
        [
            name,
            f"{overlap.both:,}",
            f"{overlap.only_first:,}",
            f"{overlap.only_second:,}",
            f"{overlap.shared_ratio:.2%}",
        ]
        for name, overlap in found.overlaps.items()
    ]
    return f"{order}\n\nDifferent documents:\n\n{markdown_table(header, rows)}"


def _span(sighting: Sighting) -> range:
    return range(sighting.start, sighting.start + sighting.tokens)


def _repeats(repeats: Mapping[int, int]) -> str:
    numbers = sorted(repeats)
    shown = [f"{number}x: {repeats[number]:,}" for number in numbers[:_MAX_REPEATS]]
    rest = sum(repeats[number] for number in numbers[_MAX_REPEATS:])
    return ", ".join(shown + ([f"more often: {rest:,}"] if rest else []))
