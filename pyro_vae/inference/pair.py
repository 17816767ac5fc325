"""What training, evaluation and predictive draws require of a model, which `LatentVariableModel` provides."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.data.tensors import as_tensor
from pyro_vae.fields import OBSERVED, Field, ReadsFields, Schema, keyword_fields, merge_fields

__all__ = ["ProgramPair"]


class ProgramPair(ReadsFields, PyroModule):
    """A module with two Pyro programs over rows of data: a model p(x, z) and a guide q(z | x).

    It is a class and not a `typing.Protocol` because callers also use what every `torch.nn.Module` has (parameters,
    buffers, modes), and a protocol cannot extend a class.

    Attributes:
        row_plate: the name of the plate over rows.
        data_sites: the names of the sites that are data.
        initialized: whether `initialize` has been called, as a tensor that is saved with the model.
        training_state: what a later `fit` continues from; None before the first.
        schema: the names of columns and fields of the data of `fit`.
    """

    row_plate: ClassVar[str] = "data"
    data_sites: ClassVar[tuple[str, ...]] = ("x",)
    initialized: Tensor
    training_state: Any
    schema: Schema = Schema()

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Any:
        """p(x, z): evaluates the density of x (B, *E); without x it draws `rows` rows."""
        raise NotImplementedError(f"{type(self).__name__} must define model(self, x=None, *, rows=None, **batch).")

    def guide(self, x: Tensor, **batch: Tensor) -> Any:
        """q(z | x) for the rows of `x` (B, *E)."""
        raise NotImplementedError(f"{type(self).__name__} must define guide(self, x, **batch).")

    @property
    def fields(self) -> dict[str, Field]:
        """The per-row fields that the programs read: keyword parameters of `model` and `guide` besides x and rows.

        A class may state others in a class attribute `fields`: names, or a dictionary of names and truth values that
        say whether the field is required.
        """
        if self.stated_fields is not None:
            return dict(self.stated_fields)
        return merge_fields((keyword_fields(type(self).model), keyword_fields(type(self).guide)))

    @property
    def decoded_fields(self) -> tuple[str, ...]:
        """Names of the fields that the data may depend on given the latents, for `decode_as`."""
        return tuple(name for name in self.fields if name != OBSERVED)

    def read_field(self, name: str, values: Any) -> Any:
        """The user's values of a field, one for each row or a single one, as a tensor."""
        return as_tensor(values, name)

    def level_names(self, name: str) -> list[str] | None:
        """The names of the levels of a field, in the order of their codes; None where numbers stand for themselves."""
        return None

    @property
    def site_of_missing(self) -> str | None:
        """The latent site whose draws are the missing cells of x; None where the programs have no such site."""
        return None

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        """Set starting values from the data (N, *E) and their fields; `fit` calls this once, before its first step."""

    def check_batch(self, batch: Mapping[str, Tensor], names: Sequence[str], first_row: int = 0) -> None:
        """Raise unless rows, x and the fields in `names`, are possible under this model."""
        fields = {name: batch[name] for name in names}
        observed = {OBSERVED: fields.pop(OBSERVED)} if OBSERVED in fields else {}
        self.check_data(batch["x"], first_row, **observed)
        self.check_fields(batch["x"], fields, first_row)

    def check_data(self, x: Tensor, first_row: int = 0, *, observed: Tensor | None = None) -> None:
        """Raise unless x (N, *E) is possible under this model; `fit` and every evaluation method call this.

        Args:
            x: rows of data.
            first_row: the number of the first of them in the data set, for the message.
            observed: the cells that are not missing, boolean of the shape of x, where the programs read this field.
        """

    def unbounded_at(self, constant: Tensor) -> Tensor:
        """Of cells that are constant in the data, E, those at which the density of the data has no upper bound."""
        return torch.zeros_like(constant)

    def check_fields(self, x: Tensor | None, fields: Mapping[str, Tensor], first_row: int = 0) -> None:
        """Raise unless these fields, (N, ...) each, are possible under this model; called with `check_data`.

        Args:
            x: the rows of data that they belong to; None where rows are to be drawn.
            fields: the fields by name.
            first_row: the number of the first row, for the message.
        """

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raise if the names of the columns of x are not those of `fit`, in order; called with `check_data`."""
        self.schema.check_columns(columns)

    def made_of(self) -> dict[str, Any] | None:
        """The constructor's arguments for saving, by name; None if they are not known."""
        return None

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype and device that data are cast to: the first parameter or real buffer."""
        for tensor in itertools.chain(self.parameters(), self.buffers()):
            if tensor.is_floating_point():
                return tensor
        return torch.zeros(())
