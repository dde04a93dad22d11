"""One file per corpus: its column layout and cleaning."""
