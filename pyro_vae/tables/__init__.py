"""Tables: typed columns of frames as numbers, and back.

To add a kind of column, write a class in `kinds` and one line in its table `KINDS`.
"""

from pyro_vae.tables.kinds import (
    KINDS,
    Binary,
    Categorical,
    Constant,
    Count,
    Identifier,
    Kind,
    Ordinal,
    Positive,
    Real,
    Share,
    Time,
)
from pyro_vae.tables.schema import ColumnSchema, TableSchema
from pyro_vae.tables.table import Table

__all__ = [
    "KINDS",
    "Binary",
    "Categorical",
    "ColumnSchema",
    "Constant",
    "Count",
    "Identifier",
    "Kind",
    "Ordinal",
    "Positive",
    "Real",
    "Share",
    "Table",
    "TableSchema",
    "Time",
]
