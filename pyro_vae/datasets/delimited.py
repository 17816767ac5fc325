"""Frames in .csv files. What a reader would have to guess, the separator, decimal commas, a header, is asked for."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.frames import UNNAMED
from pyro_vae.datasets.splits import UnsuitableDataError, reading

__all__ = ["check_options", "read"]

OTHER_SEPARATORS = (";", "\t", "|")
LEADING_ZERO = r"\s*0\d+\s*"
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*")


@dataclass(frozen=True)
class _Line:
    """A line with cells: its number in the file, from 1, and its fields."""

    number: int
    fields: list[str]


def check_options(sep: Any, decimal: Any, header: Any) -> None:
    """Raise a ValueError unless the options of a .csv file are among those that `load` describes."""
    if sep is not None and not (isinstance(sep, str) and len(sep) == 1 and sep not in '\r\n".'):
        raise ValueError(f"sep must be one character; got {sep!r}. Pass e.g. ';'.")
    if decimal is not None and decimal not in (".", ","):
        raise ValueError(f"decimal must be '.' or ','; got {decimal!r}. Choose one of these.")
    if header is not None and not isinstance(header, bool):
        raise ValueError(f"header must be True, False or None; got {header!r}. Pass False where there is none.")


def read(
    path: Path,
    sep: str | None,
    decimal: str | None,
    header: bool | None,
    *,
    text: Collection[str] = (),
    stated: Collection[str] = (),
) -> Any:
    """Read a .csv file as a frame of pandas.

    Whole numbers and truth values beside missing cells stay what they are (Int64, boolean). Columns without a name that
    come first become the index.

    Args:
        path: the file.
        sep: the character between fields; None for the default of `load`.
        decimal: the decimal point; None for ".".
        header: whether the first line holds names; None for True, with a check.
        text: names of columns that hold text, even where all cells look like numbers.
        stated: names of columns that may hold cells like "1,5", since the user said what they are.

    Raises:
        ValueError: if the file is damaged, or its lines are not those of a table with this separator, this decimal
            point and a header; the message names the line.
        ImportError: if pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(f"pandas must be installed to read {path}; got {error}. Run: pip install pandas.") from error
    decimal = decimal or "."
    sep = sep or (";" if decimal == "," else ",")
    with reading(path):
        names = _check_lines(path, sep, decimal, header)
        options: dict[str, Any] = {"sep": sep, "decimal": decimal, "header": None if header is False else 0}
        options |= {"index_col": False, "dtype": _types(text, header)}
        frame = pandas.read_csv(path, **options)
        again = [place for place in range(frame.shape[1]) if _loses_type_to_gaps(frame.iloc[:, place])]
        if again:
            typed = pandas.read_csv(path, **options, usecols=again, dtype_backend="numpy_nullable")
            for place, (_, column) in zip(again, typed.items(), strict=True):
                if column.dtype in ("Int64", "boolean"):
                    frame.isetitem(place, column)
        _keep_leading_zeros(pandas, path, options, frame, stated)
    if names is None:
        frame.columns = [str(i) for i in range(frame.shape[1])]
    else:
        frame = _without_row_names(path, frame, names)
    if decimal == ".":
        _refuse_decimal_commas(path, frame, sep, lines_above=names is not None, allowed={*text, *stated})
    return frame


def _keep_leading_zeros(pandas: Any, path: Path, options: dict[str, Any], frame: Any, stated: Collection[str]) -> None:
    """Make columns of whole numbers text again if a cell is written like "01000": such numbers are codes."""
    whole = [i for i, kind in enumerate(frame.dtypes) if kind.kind in "iu" and str(frame.columns[i]) not in stated]
    if whole:
        written = pandas.read_csv(path, **options | {"dtype": str}, usecols=whole)
        for place, (_, column) in zip(whole, written.items(), strict=True):
            if column.str.fullmatch(LEADING_ZERO).fillna(False).any():
                frame.isetitem(place, column)


def _types(text: Collection[str], header: bool | None) -> dict[Any, type]:
    """The columns to read as text, by the labels that pandas gives them: numbers where there is no header."""
    if header is not False:
        return dict.fromkeys(text, str)
    return {int(name): str for name in text if name.isdecimal()}


def _loses_type_to_gaps(column: Any) -> bool:
    """Whether whole numbers became floats, or truth values objects, since NumPy has no missing ones of these."""
    found = column.to_numpy()[column.notna()]
    if not 0 < len(found) < len(column) or column.dtype not in (np.float64, object):
        return False
    if column.dtype == object:
        return all(isinstance(cell, bool) for cell in found)
    return bool((found == np.floor(found)).all())


def _check_lines(path: Path, sep: str, decimal: str, header: bool | None) -> list[str] | None:
    """The names in the header, None where there is none, after a check that all lines have as many fields."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = _lines(csv.reader(file, delimiter=sep))
        start = list(itertools.islice(lines, 2))
        if not start:
            return None  # pandas says what is wrong
        first = start[0]
        _refuse_other_separator(path, sep, start)
        if header is None and _are_numbers(first.fields, decimal):
            raise UnsuitableDataError(
                f"{path} must begin with a line of names; got numbers in line {first.number}: {sep.join(first.fields)}."
                " Pass header=False where the first line is a row (header=True where these numbers are names)."
            )
        if header is not False and len(start) == 1:
            raise UnsuitableDataError(f"{path} must hold rows; got a header alone. Add rows below it.")
        for line in itertools.chain(start[1:], lines):
            if len(line.fields) != len(first.fields):
                raise UnsuitableDataError(
                    f"{path} must have {len(first.fields)} fields in each line, as in line {first.number}; got"
                    f" {len(line.fields)} in line {line.number}. Correct that line, or name each column, an empty name"
                    f" for names of rows. {_about_commas(sep)}"
                )
    return None if header is False else first.fields


def _lines(reader: Any) -> Iterator[_Line]:
    """The lines that are not blank."""
    for fields in reader:
        if any(field.strip() for field in fields) or len(fields) > 1:
            yield _Line(reader.line_num, fields)


def _refuse_other_separator(path: Path, sep: str, start: list[_Line]) -> None:
    """Raise if another separator stands equally often in the first lines, or a line of one field has blanks."""
    texts = [sep.join(line.fields) for line in start]
    others = [other for other in OTHER_SEPARATORS if other != sep]
    if all(len(line.fields) == 1 for line in start):
        others += [other for other in (",", " ") if other != sep and not DECIMAL_COMMA.fullmatch(texts[0])]
    for other in others:
        counts = {text.strip().count(other) for text in texts}
        if len(counts) == 1 and counts != {0}:
            comma = any(DECIMAL_COMMA.fullmatch(cell) for text in texts for cell in text.split(other))
            raise UnsuitableDataError(
                f"{path} must have fields that are separated by {sep!r}; got line {start[0].number}, {texts[0]!r}."
                f" Pass sep={other!r}{', decimal=' + repr(',') if comma else ''}."
            )


def _are_numbers(fields: list[str], decimal: str) -> bool:
    """Whether all fields are numbers or empty, and so no names.

    An empty field before 0, 1, 2, ... is a header: pandas writes it where columns have no names.
    """
    if len(fields) > 1 and fields == ["", *map(str, range(len(fields) - 1))]:
        return False
    cells = [field.strip().replace(decimal, ".") for field in fields]
    return any(cells) and all(cell == "" or _is_number(cell) for cell in cells)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("NA", "N/A", "null")
    return "_" not in text


def _without_row_names(path: Path, frame: Any, names: list[str]) -> Any:
    """The frame without its leading columns that have no name of their own: they hold names of rows.

    Each time that a frame is saved and read again without care, one more such column is put before the others: the
    last of them has the original names.
    """
    leading = list(itertools.takewhile(lambda name: UNNAMED.fullmatch(name.strip()), names))
    if not leading or len(leading) == len(names):
        return frame
    for place in range(len(leading)):
        column = frame.iloc[:, place]
        real = column.dtype.kind == "f" and bool((column % 1 != 0).any())
        counter = column.dtype.kind in "iu" and bool(column.is_unique)
        if real or (place > 0 and not counter):
            raise UnsuitableDataError(
                f"{path} must have names for all columns of data; got column {place + 1} without one, whose first cell"
                f" is {column.iloc[0]}. Name it in line 1, or remove it."
            )
    index = frame.iloc[:, len(leading) - 1].tolist()
    frame = frame.iloc[:, len(leading) :]
    return frame.set_axis(index, axis=0)


def _refuse_decimal_commas(path: Path, frame: Any, sep: str, *, lines_above: int, allowed: Collection[str]) -> None:
    """Raise if a column of text has a cell like "1,5"."""
    for name in frame.columns:
        column = frame[name]
        if column.dtype.kind in "biuf" or name in allowed:
            continue
        found = np.flatnonzero([isinstance(cell, str) and bool(DECIMAL_COMMA.fullmatch(cell)) for cell in column])
        if len(found):
            with path.open(newline="", encoding="utf-8-sig") as file:
                lines = _lines(csv.reader(file, delimiter=sep))
                number = next(itertools.islice(lines, int(found[0]) + lines_above, None)).number
            raise UnsuitableDataError(
                f"{path} must have decimal points; got {column.iloc[found[0]]!r} in line {number}, column"
                f" {str(name)!r}. Pass sep={sep!r}, decimal=','; or kinds={{{str(name)!r}: 'categorical'}} (or"
                " 'leave_out') where this is text."
            )


def _about_commas(sep: str) -> str:
    if sep != ",":
        return ""
    return (
        "Where commas are decimal points, separate the fields by semicolons, and pass sep=';', decimal=','; where the"
        " separator is another character, pass it as sep."
    )
