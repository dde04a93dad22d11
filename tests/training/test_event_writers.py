"""Which event files a trainer has open."""

from types import SimpleNamespace
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from biomamba.training.callbacks.tensorboard import has_tensorboard, writers_of


def test_only_rank_zero_writes_but_all_know(tmp_path: Any) -> None:
    loggers = [CSVLogger(str(tmp_path)), TensorBoardLogger(str(tmp_path))]
    zero: Any = SimpleNamespace(loggers=loggers, is_global_zero=True)
    other: Any = SimpleNamespace(loggers=loggers, is_global_zero=False)
    without: Any = SimpleNamespace(loggers=loggers[:1], is_global_zero=True)
    (writer,) = writers_of(zero)
    assert writer is loggers[1].experiment
    assert writers_of(other) == writers_of(without) == []
    assert [has_tensorboard(found) for found in (zero, other, without)] == [True, True, False]
    writer.close()
