"""Unusual arrays and options, and checks of what a call does with them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas
import pyro
import torch
from hypothesis import strategies as st
from matplotlib.axes import Axes
from torch import Tensor, nn

Call = tuple[Callable[..., Any], dict[str, Any]]  # a function and arguments that work

FORM = re.compile(r"must .*[;:] got .*\.|got an unexpected keyword argument", re.DOTALL)  # the latter comes from Python
EXPECTED = (ValueError, TypeError, NotImplementedError, FileNotFoundError)
MAY_BE_NAN = {"khat", "rhat", "bias", "ess"}  # where there are too few draws; errors may be NaN, too


def _with(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """A function that puts a value into the first cell of an array."""

    def put(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64) if not float(value).is_integer() or abs(value) > 2**62 else x.copy()
        x[(0,) * x.ndim] = value
        return x

    return put


VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda x: x,
    **{str(value): _with(value) for value in (np.nan, np.inf, -np.inf, 1e30, 1e308, 2.0**62, -1.0, 0.5, 300.0)},
    "constant": np.zeros_like,
}
SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda x: x,
    "no rows": lambda x: x[:0],
    "one row": lambda x: x[:1],
    "fewer rows": lambda x: x[:-1],
    "a row": lambda x: x[0],
    "a number": lambda x: x.reshape(-1)[0],
    "flat": lambda x: x.reshape(-1),
    "one more before": lambda x: x[None],
    "one more behind": lambda x: x[..., None],
    "no columns": lambda x: x[..., :0],
    "fewer columns": lambda x: x[..., :-1],
}
DTYPES = ("same", "float64", "float32", "float16", "int64", "uint8", "uint64", "bool", "complex128", "object", "str")
FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda x: x,
    "tensor": lambda x: torch.as_tensor(x),
    "tensor with gradient": lambda x: torch.tensor(x, requires_grad=True),
    "parameter": lambda x: nn.Parameter(torch.tensor(x), requires_grad=x.dtype.kind == "f"),
    "tensor of steps": lambda x: torch.as_tensor(np.stack([x, x], -1))[..., 0],
    "Fortran": np.asfortranarray,
    "reversed": lambda x: np.flip(np.flip(x, 0).copy(), 0) if x.ndim else x,
    "strided": lambda x: np.repeat(x, 2, 0)[::2] if x.ndim else x,
    "swapped bytes": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape) if x.size else x,
    "list": lambda x: x.tolist(),
    "frame": lambda x: pandas.DataFrame(x),
    "series": lambda x: pandas.Series(x),
    "sparse": lambda x: torch.as_tensor(x).to_sparse(),
    "meta": lambda x: torch.as_tensor(x).to("meta"),
    "mask": lambda x: np.ma.masked_array(x, np.ones(x.shape, bool)),
}
OTHER: list[Any] = [
    None,
    "rows",
    3,
    {},
    {"x": 1},
    [],
    [[1.0], [1.0, 2.0]],
    object(),
    {1, 2},
    np.datetime64("2020"),
    int,
]
OPTIONS: list[Any] = [
    *(None, "3", "a", "", b"a", True, False, -1, 0, 1, 2, 3, 1.5, -0.5, 1e308, 2**70, np.nan, np.inf, -np.inf, 1 + 2j),
    *([], (), (2,), ("a",), (0.1, 0.9), [1, -1], {}, {"a": 1}, object(), int, np.int64(2), np.float32(0.5)),
    *(torch.tensor(2), torch.tensor([1.0, 2.0]), torch.tensor(0.5), np.array([2]), slice(None), "\N{SNOWMAN}", "x\0"),
]


@dataclasses.dataclass(frozen=True)
class Strange:
    """An array that is unusual in up to four ways: a value, the shape, the dtype and the form."""

    value: str = "same"
    shape: str = "same"
    dtype: str = "same"
    form: str = "array"

    def made(self, base: np.ndarray) -> tuple[Any, np.ndarray | None]:
        """The unusual array, and an ordinary one of the same numbers; None if it does not hold real numbers."""
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            x = SHAPES[self.shape](VALUES[self.value](base))
            x = np.asarray(x if self.dtype == "same" else x.astype(self.dtype))
            try:
                strange = FORMS[self.form](x)
            except (TypeError, ValueError, RuntimeError):  # this form does not exist for this array
                strange = x
            numbers = np.asarray(x if isinstance(strange, Tensor) else strange)
            plain = None
            if numbers.dtype.kind in "biuf":
                plain = np.array(numbers, base.dtype if base.dtype.kind == "f" else numbers.dtype.newbyteorder("="))
        return strange, plain


def arrays() -> st.SearchStrategy[Strange]:
    """Arrays that are unusual in up to four ways."""
    ways = {"value": VALUES, "shape": SHAPES, "dtype": DTYPES, "form": FORMS}
    return st.fixed_dictionaries({}, optional={way: st.sampled_from(list(some)) for way, some in ways.items()}).map(
        lambda chosen: Strange(**chosen)
    )


def options() -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from(OPTIONS), st.integers(-3, 5), st.floats(), st.text(max_size=3))


def argument_names(call: Call) -> list[str]:
    """The names of all arguments of a function, and unknown ones if it takes any keyword."""
    function, arguments = call
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    others = ["unknown", "fields"] if any(p.kind == p.VAR_KEYWORD for p in parameters) else []
    return list(dict.fromkeys([*names, *arguments, *others]))


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The arrays and numbers in a result, each with the name of the attribute or key that holds it."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    elif isinstance(value, torch.distributions.Distribution):
        value = (value.batch_shape, value.event_shape, value.mean)
    elif isinstance(value, Axes):
        value = [line.get_xydata() for line in value.lines]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif type(value).__name__ in ("Rows", "History"):
        value = {"x": value.x, **value.fields} if hasattr(value, "x") else [{**line, "seconds": 0} for line in value]
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from leaves(part, str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from leaves(part, name)
    elif isinstance(value, Tensor | np.ndarray | float | int):
        yield name, np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)


def outcome(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """What a call returns, or the error that it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return list(leaves(function(**arguments)))
        except Exception as error:
            return error
        finally:
            plt.close("all")


def check_error(error: Exception) -> None:
    """Fail unless an error is of an expected class and says what must be given."""
    assert isinstance(error, EXPECTED) and FORM.search(str(error)), f"{type(error).__name__}: {error}"


def check_finite(result: list[tuple[str, np.ndarray]], *, huge: bool) -> None:
    """Fail unless all numbers are finite; of huge data, the logarithm of a density may be infinite."""
    for name, value in result:
        if value.dtype.kind == "f" and name not in MAY_BE_NAN and "error" not in name:
            assert not np.isnan(value).any(), (name, value)
            assert huge or np.isfinite(value).all(), (name, value)


def check_same(result: list[tuple[str, np.ndarray]], expected: Any) -> None:
    """Fail unless a result is that for the ordinary array of the same numbers."""
    assert not isinstance(expected, Exception), f"the plain array raises {expected!r}"
    assert len(result) == len(expected)
    for (name, value), (_, other) in zip(result, expected, strict=True):
        near = 0.1 if value.dtype == np.float16 else 1e-4
        with np.errstate(over="ignore"):
            other = other.astype(value.dtype) if value.dtype.kind == "f" else other
        np.testing.assert_allclose(value, other, rtol=near, atol=near / 10, err_msg=name)


class Unchanged:
    """A record of a model, arrays and global state; `check` fails if any of them has changed since."""

    def __init__(self, model: nn.Module | None, *inputs: Any) -> None:
        self.model, self.inputs = model, inputs
        self.before = self.state()

    def state(self) -> Any:
        model = self.model
        return copy.deepcopy(
            {
                "tensors": {} if model is None else {k: v.numpy() for k, v in model.state_dict().items()},
                "modes": [] if model is None else [part.training for part in model.modules()],
                "gradients": [] if model is None else [p.requires_grad for p in model.parameters()],
                "training": None if model is None else id(model.training_state),
                "inputs": [_bytes(one) for one in self.inputs],
                "random": (torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()),
                "store": sorted(pyro.get_param_store()),
                "flags": (torch.get_default_dtype(), torch.is_grad_enabled(), pyro.settings.get("module_local_params")),
            }
        )

    def check(self, *, except_for: str = "") -> None:
        after = self.state()
        self.before.pop(except_for, None)
        for part, value in self.before.items():
            np.testing.assert_equal(after[part], value, err_msg=f"{part} changed")


def _bytes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (str(value.device), tuple(value.shape), value.requires_grad, value._version, value.grad is None)
    if isinstance(value, np.ndarray | pandas.DataFrame | pandas.Series):
        array = np.asarray(value)
        return array.tolist() if array.dtype == object else array.tobytes()
    return repr(value)
