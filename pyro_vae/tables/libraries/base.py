"""What the libraries of frames have in common."""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from pyro_vae.tables.columns import NAT, UNITS, Column, Level, key_of, plain_levels

__all__ = [
    "DType",
    "Library",
    "check_dtype",
    "floats_in",
    "integers_in",
    "missing_in",
    "sort_of",
    "ticks_in",
    "unsupported",
]

DType = dict[str, Any]  # a dtype as JSON values: its name, and what else it needs
ZONE = re.compile(r"[A-Za-z0-9_+\-/:]{1,64}")
ENTRIES: dict[str, Callable[[Any], bool]] = {
    "holds": lambda value: value in ("text", "bool", "int", "float"),
    "na": lambda value: value in ("nan", "NA"),
    "ordered": lambda value: isinstance(value, bool),
    "storage": lambda value: value in ("python", "pyarrow"),
    "unit": lambda value: value in UNITS,
    "zone": lambda value: value is None or bool(ZONE.fullmatch(value)),
}


class Library(ABC):
    """A library of frames: reads columns into the common form, and writes frames with the library's own dtypes.

    Attributes:
        name: the name of its module.
        frame_class: the name of the class of its frames.
        dtypes: the dtypes that it can read and write, and the entries by which each is described.
    """

    name: ClassVar[str]
    frame_class: ClassVar[str]
    dtypes: ClassVar[Mapping[str, tuple[str, ...]]]

    def owns(self, frame: Any) -> bool:
        """Whether the frame is one of this library."""
        module = sys.modules.get(self.name)
        return module is not None and isinstance(frame, getattr(module, self.frame_class))

    @abstractmethod
    def kept(self, frame: Any) -> Any:
        """The frame, such that later changes of it in place do not reach this one."""

    @abstractmethod
    def names(self, frame: Any) -> list[Any]:
        """The names of the columns."""

    def index(self, frame: Any) -> list[Any] | None:
        """The names of the rows, if there are any."""
        return None

    def axis(self, frame: Any) -> DType | None:
        """What the axis of the column names needs besides these, as JSON values."""
        return None

    @abstractmethod
    def read(self, frame: Any, place: int, name: str) -> tuple[Column, DType | None]:
        """A column and its dtype; None for a dtype without values.

        Raises:
            TypeError: if the library's dtype holds no numbers, text, categories or times, or can't be written again.
        """

    @abstractmethod
    def write(self, values: np.ndarray, dtype: DType) -> Any:
        """A column of the library from what `Kind.decode` returns."""

    @abstractmethod
    def make(self, columns: Mapping[Any, Any], axis: DType | None) -> Any:
        """A frame of such columns by name, with the library's default index."""

    @abstractmethod
    def replaced(self, frame: Any, columns: Mapping[int, Any]) -> Any:
        """The frame with other columns in these places."""

    @abstractmethod
    def taken(self, frame: Any, rows: np.ndarray) -> Any:
        """The rows at these positions."""

    def with_levels(self, dtype: DType, levels: Sequence[Level]) -> DType:
        """The dtype, with those levels added that it lacks, if it is one that lists levels."""
        if "levels" not in dtype:
            return dtype
        known = {key_of(level) for level in dtype["levels"]}
        return {**dtype, "levels": [*dtype["levels"], *(level for level in levels if key_of(level) not in known)]}


def check_dtype(library: Library, dtype: Any) -> None:
    """Raise a ValueError unless these JSON values describe a dtype of the library.

    The library need not be installed: a model that was trained on frames of one library may be used with another's.
    """
    name = dtype.get("name") if isinstance(dtype, dict) else None
    if not isinstance(name, str) or name not in library.dtypes:
        raise ValueError(f"A saved dtype must be one of {library.name}; got {name!r}. The file is damaged.")
    entries = library.dtypes[name]
    wrong = [key for key in entries if key not in dtype] + [key for key in dtype if key not in ("name", *entries)]
    wrong += [key for key in entries if key in dtype and not _is_possible(library, key, dtype[key])]
    if wrong:
        raise ValueError(f"A saved dtype {name!r} must be possible; got a wrong entry {wrong[0]!r}. It is damaged.")


def _is_possible(library: Library, key: str, value: Any) -> bool:
    try:
        if key == "levels":
            return isinstance(value, list) and plain_levels("a dtype", value) is not None
        if key in ("values", "index", "type"):
            from pyro_vae.tables.libraries import LIBRARIES

            check_dtype(LIBRARIES["pyarrow"] if key == "type" else library, value)
            return "levels" not in value
        return ENTRIES[key](value)
    except (TypeError, ValueError):
        return False


def sort_of(dtype: DType) -> str:
    """The sort of a column with this dtype; see `Column`."""
    if "type" in dtype:
        return sort_of(dtype["type"])
    if "levels" in dtype:
        return "levels"
    name = dtype["name"].lower()
    starts = {"bool": "bool", "int": "int", "uint": "int", "date": "time", "timestamp": "time", "categorical": "levels"}
    starts |= {"float": "float", "double": "float", "halffloat": "float"}
    return dtype.get("holds") or next((sort for start, sort in starts.items() if name.startswith(start)), "text")


def unsupported(name: str, dtype: Any) -> TypeError:
    """An error about a dtype that no kind can read."""
    text = str(dtype)
    advice = "Convert it to numbers, text or categories"
    if re.search("complex", text, re.I):
        advice = "Split it into real and imaginary parts"
    elif re.search("timedelta|duration", text, re.I):
        advice = "Convert it to numbers, e.g. of seconds or days"
    elif re.search("decimal", text, re.I):
        advice = "Cast it to floating-point numbers"
    elif re.search("interval|period", text, re.I):
        advice = "Convert it to text, or to numbers"
    return TypeError(
        f"column {name!r} must hold numbers, truth values, text, categories or times; got dtype {text[:80]}. {advice},"
        f" or pass leave_out=[{name!r}]."
    )


def floats_in(values: np.ndarray, kind: Any) -> np.ndarray:
    """The values as the nearest finite numbers that the NumPy dtype holds, NaN where missing."""
    largest = float(np.finfo(kind).max)
    return np.clip(values.astype(np.float64), -largest, largest).astype(kind)


def integers_in(values: np.ndarray, kind: Any) -> np.ndarray:
    """The values rounded to the nearest integers that the NumPy dtype holds; a missing cell becomes 0."""
    info = np.iinfo(kind)
    high = float(info.max) if float(info.max) <= info.max else float(np.nextafter(float(info.max), 0.0))
    return np.clip(np.round(np.nan_to_num(values.astype(np.float64))), float(info.min), high).astype(kind)


def missing_in(values: np.ndarray) -> np.ndarray:
    """Which cells of what a kind decodes are missing, (N,) bool."""
    if values.dtype.kind in "fM":
        return np.isnan(values) if values.dtype.kind == "f" else np.isnat(values)
    found: np.ndarray = np.equal(values, np.array(None, dtype=object))
    return found.astype(bool)


def ticks_in(values: np.ndarray, unit: str) -> np.ndarray:
    """Times as ticks of a unit, the nearest that int64 holds; `NAT` where missing."""
    own = np.datetime_data(values.dtype)[0]
    ticks = values.view(np.int64)
    if UNITS[unit] >= UNITS[own]:
        factor = UNITS[unit] // UNITS[own]
        longest = (2**63 - 1) // factor
        ticks = np.clip(ticks, -longest, longest) * factor
    else:
        ticks = ticks // (UNITS[own] // UNITS[unit])
    return np.where(np.isnat(values), NAT, ticks)
