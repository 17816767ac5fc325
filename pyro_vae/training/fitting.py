"""`fit`: options and data are checked, model, optimizer and step are prepared, and the loop is started."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro.infer
import torch
from torch.utils.data import DataLoader, SequentialSampler

from pyro_vae.data.batches import Batches, Rows
from pyro_vae.data.columns import Ranges, named_columns, warn_of_lost_digits
from pyro_vae.data.loaders import names_of_columns
from pyro_vae.elbos import Estimator, from_pyro
from pyro_vae.elbos.foreign import runs_one_by_one
from pyro_vae.fields import OBSERVED, ROW_WEIGHTS, Schema, check_one_per_row, choose_fields, refuse_unread, split_fields
from pyro_vae.graphs.graph import CaptureError
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.programs import plate_nesting
from pyro_vae.runtime import processes
from pyro_vae.runtime.isolation import preserved_modes
from pyro_vae.runtime.precision import has_bfloat16
from pyro_vae.runtime.random import preserved_rng, seeded
from pyro_vae.saving import description
from pyro_vae.tables.table import Table, matching
from pyro_vae.training import first_batch, row_order
from pyro_vae.training.checkpoints.writer import CheckpointWriter, open_checkpoints
from pyro_vae.training.compiled.step import CompiledStep, choose_num_threads, pays
from pyro_vae.training.eager import EagerStep
from pyro_vae.training.history import History
from pyro_vae.training.loop import Loop
from pyro_vae.training.options import FitOptions
from pyro_vae.training.progress import ProgressBar
from pyro_vae.training.state import prepare_state
from pyro_vae.training.step import Step

__all__ = ["fit"]

logger = logging.getLogger("pyro_vae")


def fit(model: ProgramPair, data: Any, options: FitOptions) -> History:
    """Train a model and its guide; see `LatentVariableModel.fit`, which calls this."""
    processes.warn_if_alone()
    if options.device is not None:
        model.to(_existing_device(options.device))
    if options.precision != "float32":
        _check_bfloat16(model.like)
    batches, held_out = _read_data(model, data, options)
    _check_called_alike(_equal_in_all_processes(options))
    checkpoints = open_checkpoints(options.run_dir, options.checkpoint_every, resume=options.resume)
    with preserved_modes(model), checkpoints as writer:
        if writer is not None or processes.size() > 1:
            configuration = _configuration(model, batches, held_out, options)
            _check_called_alike(configuration)
            if writer is not None:
                writer.check_same_run(configuration)
        seed = options.seed
        if seed is None and processes.size() > 1:  # all processes must draw the same order of rows
            seed = processes.agree_on(int(torch.randint(2**62, ())))
        with _restored_on_error(model):
            if writer is not None:
                writer.load_parameters(model)
            if not model.initialized:
                with torch.no_grad(), seeded(seed, 0, 1):  # a stream that no epoch has
                    _initialize(model, batches)
            processes.synchronize(model.state_dict().values())
            estimator = _validate_first_batch(model, batches, options)
            model.schema = _schema_with(model, batches)
            state = prepare_state(model, options.optimizer, options.learning_rate)
            if writer is not None:
                writer.restore(model, state)
            model.train()
            eager = EagerStep(
                model,
                estimator,
                state.optimizer,
                batches,
                options.grad_clip,
                options.on_nonfinite,
                options.locate_nonfinite,
                options.precision,
            )
            epochs = options.epochs if writer is None else writer.epochs_left(options.epochs, state)
            step = _make_step(eager, epochs, options.compile, writer)
        progress = ProgressBar(options.epochs) if options.progress and processes.rank() == 0 else None
        return Loop(model, options, state, estimator, held_out, seed, writer, progress).run(step)


def _existing_device(device: Any) -> torch.device:
    """The device of this name; a ValueError if this machine has none."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device must be one of this machine; got {device!r} ({error}). Pass e.g. 'cpu'.") from None
    if found.type == "meta":
        raise ValueError("device must be one that computes; got 'meta'. Pass e.g. 'cpu'.")
    return found


def _check_bfloat16(like: torch.Tensor) -> None:
    """Raise unless a model is in float32; warn if its device has no instructions for bfloat16."""
    if like.dtype != torch.float32:
        raise ValueError(
            f"precision must be 'float32' unless the model is in float32; got 'bf16-mixed' for {like.dtype}. Leave it"
            " out, or convert the model by model.float()."
        )
    if not has_bfloat16(like.device):
        logger.warning(
            "This %s has no instructions for bfloat16: training by precision='bf16-mixed' is slower than without.",
            "processor" if like.device.type == "cpu" else "device",
        )


def _read_data(model: ProgramPair, data: Any, options: FitOptions) -> tuple[Batches, Batches | None]:
    """The rows to train on and the validation rows, read and checked."""
    names, values = split_fields({"fields": options.fields})
    refuse_unread(model.fields, values, training=True)
    data = matching(data, model.schema.table)
    readable = (*model.fields, ROW_WEIGHTS)
    common: dict[str, Any] = {"like": model.like, "readable": readable, "batch_size": options.batch_size}
    common["read_field"] = model.read_field
    batches = Batches(data, num_rows=options.num_rows, fields=names, values=values, **common)
    _check_covariates_read(model, batches.data)
    ranges = _check_rows(model, batches, model.schema)
    held_out = None
    if options.valid is not None:
        try:
            schema = _schema_with(model, batches)
            held_out = Batches(matching(options.valid, schema.table), shuffle=False, fields=names, **common)
            _check_rows(model, held_out, schema)
        except ValueError as error:
            raise ValueError(f"valid must be rows like those of data. {error}") from error
    warn_of_lost_digits(batches.data, model.like)
    if isinstance(batches.data, Rows):
        _check_columns_observed(batches.data, ranges.empty())
        _check_columns_vary(model, batches.data, ranges.constant())
    return batches, held_out


def _check_covariates_read(model: ProgramPair, data: Any) -> None:
    """Raise if a table has a covariate that the model does not read, which would have no effect."""
    unread = [c.name for c in data.schema.covariates if c.name not in model.fields] if isinstance(data, Table) else []
    if unread:
        raise ValueError(
            f"covariates of the table must be ones that the model reads; got {unread[0]!r}. Make the model by"
            " pv.VAE.for_table(table), or pass covariates=table.covariates()."
        )


def _schema_with(model: ProgramPair, batches: Batches) -> Schema:
    """The schema of the model with the names of the training data."""
    table = batches.data.schema.to_plain() if isinstance(batches.data, Table) else None
    return model.schema.after_fit(names_of_columns(batches.data), batches.names, table)


def _check_rows(model: ProgramPair, batches: Batches, schema: Schema) -> Ranges:
    """Raise unless all rows, or the first batch of a loader, are data for the model, with names as in the schema.

    Returns the ranges of the cells.
    """
    columns = names_of_columns(batches.data)
    if columns is not None:
        schema.check_columns(columns)
        model.check_columns(columns)
    choose_fields(model.fields, batches.names, (), seen=schema.fields, training=True)
    weighted = ROW_WEIGHTS not in batches.names
    ranges = Ranges()
    for first_row, batch in batches.chunks():
        model.check_batch(batch, batches.names, first_row)
        ranges.add(batch["x"], batch.get(OBSERVED))
        if ROW_WEIGHTS in batch:
            weighted |= _has_weight(batch[ROW_WEIGHTS], len(batch["x"]), first_row)
    if not weighted:
        raise ValueError("field 'row_weights' must be positive for some row; got zeros alone. Check the weights.")
    return ranges


def _has_weight(weights: torch.Tensor, num_rows: int, first_row: int) -> bool:
    """Whether some of these weights are positive.

    Raises:
        ValueError: if they are not one number of at least 0 for each row.
    """
    check_one_per_row(ROW_WEIGHTS, weights, num_rows)
    if (weights < 0).any():
        row = int((weights < 0).nonzero()[0])
        raise ValueError(
            f"field 'row_weights' must be at least 0; got {weights[row].item():g} in row {first_row + row}. Give a row"
            " weight 0 to leave it out."
        )
    return bool((weights > 0).any())


def _check_columns_observed(rows: Rows, empty: torch.Tensor) -> None:
    """Raise if a column has no observed cell."""
    if empty.any():
        raise ValueError(
            f"x must have an observed cell in each column; got none in columns {named_columns(empty, rows)} of the"
            " training rows, of which a model can learn nothing. Leave these columns out."
        )


def _check_columns_vary(model: ProgramPair, rows: Rows, constant: torch.Tensor) -> None:
    """Raise where constant cells leave the density without a bound; warn of constant columns of tables and of counts.

    Images may have cells that are constant, such as those of their border.
    """
    unbounded = model.unbounded_at(constant)
    if unbounded.any():
        raise ValueError(
            f"x must vary in each column whose scale is learned; got constant columns"
            f" {named_columns(unbounded, rows)} in the training rows, where the density has no upper bound, and which"
            " decide all numbers. Leave these columns out, choose another likelihood for them, or one scale for all"
            ' columns: scale="shared" (dispersion="shared").'
        )
    discrete = getattr(getattr(model, "likelihood", None), "discrete", False)
    if constant.any() and constant.dim() == 1 and (rows.columns is not None or discrete):
        warnings.warn(
            f"Columns {named_columns(constant, rows)} of x are constant in the training rows: a model can't learn what"
            " other values mean. Leave these columns out.",
            stacklevel=5,
        )


def _initialize(model: ProgramPair, batches: Batches) -> None:
    """Let the model start from its data.

    Raises:
        ValueError: if that leaves a value that is not finite, because a cell is too large to compute with or because
            of a field.
    """
    finite = [name for name, value in model.state_dict().items() if torch.isfinite(value).all()]
    sample = batches.sample()
    model.initialize(**sample)
    started = model.state_dict()
    broken = [name for name in finite if not torch.isfinite(started[name]).all()]
    if broken:
        _refuse_large_cells(batches, model.like.dtype)
        fields = {name: sample[name] for name in batches.names if name not in (ROW_WEIGHTS, OBSERVED)}
        ranges = ", ".join(f"{name!r} from {value.min():g} to {value.max():g}" for name, value in fields.items())
        found = f"{broken[0]!r}, computed from x" + (f" and the fields {ranges}" if fields else "")
        raise ValueError(
            f"Start values must be finite; got others: {found}. Check"
            + (" the scale of the fields and" if fields else "")
            + " the units of x: choose units in which values are near 1 (divide x by a power of 10), or train in"
            " float64: model.double()."
        )
    model.initialized.fill_(True)


def _refuse_large_cells(batches: Batches, dtype: torch.dtype) -> None:
    """Raise if x has a cell whose square overflows."""
    for first_row, batch in batches.chunks():
        sizes = batch["x"].reshape(len(batch["x"]), -1).abs().amax(1)
        if sizes.max() > torch.finfo(dtype).max ** 0.5:
            raise ValueError(
                f"x must be of a size that can be squared in {dtype}; got {float(sizes.max()):g} in row"
                f" {first_row + int(sizes.argmax())}. Look at that row, rescale x, or train in float64: model.double()."
            )


@contextmanager
def _restored_on_error(model: ProgramPair) -> Iterator[None]:
    """Set the model, its training state included, back to how it was if what is within raises."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    earlier, schema = copy.copy(model.training_state), model.schema
    rates = [] if earlier is None else [group["lr"] for group in earlier.optimizer.param_groups]
    try:
        yield
    except BaseException:
        model.load_state_dict(before)
        model.training_state, model.schema = earlier, schema
        for rate, group in zip(rates, earlier.optimizer.param_groups if earlier else (), strict=True):
            group["lr"] = rate
        raise


def _equal_in_all_processes(options: FitOptions) -> dict[str, Any]:
    """The options that must be the same in all processes, though a resumed run may change them."""
    return {
        "epochs": options.epochs,
        "on_nonfinite": options.on_nonfinite,
        "compile": options.compile,
        "run_dir": options.run_dir is not None,
    }


def _configuration(
    model: ProgramPair, batches: Batches, held_out: Batches | None, options: FitOptions
) -> dict[str, Any]:
    """What a run is, as plain values: a resumed run that differed in any of them would give other numbers."""
    tensors = {name: f"{tensor.dtype} {tuple(tensor.shape)}" for name, tensor in model.state_dict().items()}
    whole = description.configuration(model)
    return {
        "model": whole["model"],
        "arguments": whole["arguments"],
        "tensors": tensors,
        "data": batches.describe(),
        "valid": None if held_out is None else held_out.describe(),
        **{name: description.comparable(value) for name, value in options.of_the_run().items()},
        "fields": batches.names,
    }


def _check_called_alike(configuration: dict[str, Any]) -> None:
    """Raise, in all processes, unless `fit` was called with the same values in all of them."""
    first, *others = processes.gathered(json.loads(json.dumps(configuration)))
    for number, other in enumerate(others, 1):
        if found := description.differences(first, other, "in process 0", f"in process {number}"):
            raise ValueError(
                f"fit must be called alike in all processes; got {found}. Give each process the same data and options:"
                " fit itself divides the rows among them."
            )


def _validate_first_batch(model: ProgramPair, batches: Batches, options: FitOptions) -> Estimator:
    """Check the programs strictly on the first batch; returns the estimator to train with."""
    elbo = pyro.infer.Trace_ELBO() if options.elbo is None else options.elbo
    with preserved_rng():
        batch = batches.read(batches.first())
    x, fields = batch.pop("x"), batch
    row_weights = {"row_weights": fields.pop("row_weights")} if "row_weights" in fields else {}
    estimator = from_pyro(elbo, reparameterized=first_batch.check_programs(model, x, fields))
    if len(x) < batches.num_rows or not _keeps_order(batches):
        row_order.check_row_order(model, x, fields)
    if options.elbo is None or not runs_one_by_one(elbo):
        plate_nesting(model.model, model.guide, (x,), fields)  # checks that several particles are treated like one
    if not estimator.one_bound:
        _warn_of_shared_parameters(model, estimator, x, fields)
    first_batch.check_gradients(model, estimator, x, num_rows=batches.num_rows, **row_weights, **fields)
    return estimator


def _warn_of_shared_parameters(
    model: ProgramPair, estimator: Estimator, x: torch.Tensor, fields: dict[str, torch.Tensor]
) -> None:
    """Warn where an estimator with different gradients for model and guide trains parameters that both read."""
    if shared := first_batch.shared_parameters(model, x, fields):
        logger.warning(
            "Model and guide share the parameters %s, to which %s with gradient=%r gives a sum of gradients that"
            " belongs to no bound: log p(x) may suffer. ELBO follows one, and so does IWAE with"
            " gradient='reparameterized' or 'dreg'.",
            ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else ""),
            type(estimator).__name__,
            estimator.gradient,
        )


def _keeps_order(batches: Batches) -> bool:
    """Whether the user's loader yields the rows in the order of the data, every time."""
    return isinstance(batches.data, DataLoader) and isinstance(batches.data.sampler, SequentialSampler)


def _make_step(eager: EagerStep, epochs: int, compile: bool | str, writer: CheckpointWriter | None) -> Step:
    """The step to train with. A resumed run keeps its kind of step; a new run is compiled if asked, or if it pays."""
    kept = {} if writer is None or writer.saved is None else writer.choices
    wanted = kept.get("compiled", compile)
    eager.num_threads = kept.get("num_threads", eager.num_threads)
    step: Step = eager
    if compile != "auto" and wanted != compile:
        logger.warning("The run continues with %s steps, as it began.", "compiled" if wanted else "uncompiled")
    if epochs > 0 and (pays(eager, epochs) if wanted == "auto" else wanted):
        try:
            num_threads = kept.get("num_threads", choose_num_threads(eager))
            step = CompiledStep(eager, eager.batches.first(), num_threads=num_threads)
        except CaptureError as reason:
            if compile is True:
                raise RuntimeError(
                    f"The step must be one that can be compiled; got {reason}. Change the program, or pass"
                    " compile='auto'."
                ) from reason
            logger.warning("Training is not compiled: %s.", reason)
    if writer is not None:
        writer.choices |= {"num_threads": step.num_threads}
    return step
