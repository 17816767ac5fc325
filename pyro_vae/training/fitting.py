"""`fit`: options and data checked, model and optimizer made ready, one loop started."""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro.infer
import torch

from pyro_vae.arguments import as_path, is_number, positive_integer, positive_number, true_or_false
from pyro_vae.data.batches import Batches, Rows, warn_of_lost_digits
from pyro_vae.elbos import Estimator, from_pyro
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime import processes
from pyro_vae.runtime.isolation import preserved_modes
from pyro_vae.runtime.random import preserved_rng, seeded
from pyro_vae.saving import description
from pyro_vae.training import first_batch
from pyro_vae.training.checkpoints.snapshot import described, differences
from pyro_vae.training.checkpoints.writer import Keeper, keeping
from pyro_vae.training.compiled import step as capture
from pyro_vae.training.compiled.graph import CaptureError
from pyro_vae.training.compiled.step import CompiledStep
from pyro_vae.training.eager import EagerStep
from pyro_vae.training.history import History
from pyro_vae.training.loop import Loop, Progress
from pyro_vae.training.state import prepared

__all__ = ["fit"]

logger = logging.getLogger("pyro_vae")


def fit(
    model: ProgramPair,
    data: Any,
    *,
    elbo: pyro.infer.ELBO | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    learning_rate: float | Callable[..., float] | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    valid: Any = None,
    patience: int | None = None,
    grad_clip: float | None = None,
    num_rows: int | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    fields: Sequence[str] = (),
    callbacks: Sequence[Callable[[Any, History], bool | None]] = (),
    compile: bool | str = "auto",
    on_nonfinite: str = "raise",
    locate_nonfinite: bool = True,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_every: float = 300.0,
    progress: Progress | None = None,
) -> History:
    """Train a model and its guide; see `LatentVariableModel.fit`, which calls this."""
    epochs, batch_size = positive_integer("epochs", epochs), positive_integer("batch_size", batch_size)
    processes.warn_if_alone()
    _check_options(valid, patience, grad_clip, num_rows, callbacks, compile)
    _check_keeping(on_nonfinite, run_dir, resume, checkpoint_every)
    if device is not None:
        model.to(_device(device))
    options: dict[str, Any] = {"like": model.like, "fields": fields, "batch_size": batch_size}
    batches = Batches(data, num_rows=num_rows, **options)
    _check_rows(model, batches)
    held_out = _held_out(model, valid, options)
    warn_of_lost_digits(batches.data, model.like)
    plan: dict[str, Any] = {
        "elbo": elbo,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
    }
    plan |= {"seed": seed, "grad_clip": grad_clip, "patience": patience, "num_rows": num_rows, "fields": batches.names}
    _refuse_strangers(
        {"epochs": epochs, "on_nonfinite": on_nonfinite, "compile": compile, "run_dir": run_dir is not None}
    )
    with preserved_modes(model), keeping(run_dir, checkpoint_every, resume=resume) as keeper:
        if keeper is not None or processes.size() > 1:
            configuration = _configuration(model, batches, held_out, plan)
            _refuse_strangers(configuration)
            if keeper is not None:
                keeper.check(configuration)
        if seed is None and processes.size() > 1:  # all must draw the same order
            seed = processes.agree_on(int(torch.randint(2**62, ())))
        with _unless_prepared(model):
            if keeper is not None:
                keeper.load(model)
            if not model.initialized:
                with torch.no_grad(), seeded(seed, 0, 1):  # a stream that no epoch has
                    _initialize(model, batches)
            processes.synchronize(model.state_dict().values())
            estimator = _open_the_door(model, batches, pyro.infer.Trace_ELBO() if elbo is None else elbo)
            state = prepared(model, optimizer, learning_rate)
            if keeper is not None:
                keeper.restore(model, state)
            model.train()
            eager = EagerStep(model, estimator, state.optimizer, batches, grad_clip, on_nonfinite, locate_nonfinite)
            step = _step(eager, epochs if keeper is None else keeper.left_of(epochs, state), compile, keeper)
        loop = Loop(model, state, estimator, held_out, seed, keeper, progress if processes.rank() == 0 else None)
        return loop.run(step, epochs, patience, callbacks)


def _device(device: Any) -> torch.device:
    """The device of this name, where there is one."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device must be one of this machine; got {device!r} ({error}). Pass e.g. 'cpu'.") from None
    if found.type == "meta":
        raise ValueError("device must be one that computes; got 'meta'. Pass e.g. 'cpu'.")
    return found


def _check_rows(model: ProgramPair, batches: Batches) -> None:
    """Raise unless all rows, of a loader the first, are data for the model."""
    if isinstance(batches.data, Rows) and batches.data.columns is not None:
        model.check_columns(batches.data.columns)
    for first_row, rows in batches.chunks():
        model.check_rows(rows, first_row)


def _held_out(model: ProgramPair, valid: Any, options: dict[str, Any]) -> Batches | None:
    """The validation rows, checked."""
    if valid is None:
        return None
    try:
        held_out = Batches(valid, shuffle=False, **options)
        _check_rows(model, held_out)
    except ValueError as error:
        raise ValueError(f"valid must be rows like those of data. {error}") from error
    return held_out


def _initialize(model: ProgramPair, batches: Batches) -> None:
    """Let the model start from its data.

    Raises:
        ValueError: if that leaves a buffer that is not finite, and a cell is too large to compute with.
    """
    finite = [name for name, buffer in model.named_buffers() if torch.isfinite(buffer).all()]
    model.initialize(**batches.sample())
    if not all(torch.isfinite(model.get_buffer(name)).all() for name in finite):
        _refuse_large(batches, model.like.dtype)
    model.initialized.fill_(True)


def _refuse_large(batches: Batches, dtype: torch.dtype) -> None:
    for first_row, rows in batches.chunks():
        sizes = rows["x"].reshape(len(rows["x"]), -1).abs().amax(1)
        if sizes.max() > torch.finfo(dtype).max ** 0.5:
            raise ValueError(
                f"x must be of a size that can be squared in {dtype}; got {float(sizes.max()):g} in row"
                f" {first_row + int(sizes.argmax())}. Look at that row, rescale x, or train in float64: model.double()."
            )


@contextmanager
def _unless_prepared(model: ProgramPair) -> Iterator[None]:
    """Set the model, its training state included, back to how it was if what is within raises."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    earlier = copy.copy(model.training_state)
    rates = [] if earlier is None else [group["lr"] for group in earlier.optimizer.param_groups]
    try:
        yield
    except BaseException:
        model.load_state_dict(before)
        model.training_state = earlier
        for rate, group in zip(rates, earlier.optimizer.param_groups if earlier else (), strict=True):
            group["lr"] = rate
        raise


def _check_options(valid: Any, patience: Any, grad_clip: Any, num_rows: Any, callbacks: Any, compile: Any) -> None:
    if not isinstance(compile, int | str) or compile not in (True, False, "auto"):
        raise ValueError(f"compile must be True, False or 'auto'; got {compile!r}. 'auto' compiles where it pays.")
    if num_rows is not None:
        positive_integer("num_rows", num_rows)
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks must be a sequence of functions; got {callbacks!r}. Pass [function].")
    if patience is not None and (valid is None or positive_integer("patience", patience) < 1):
        raise ValueError("valid must be given where patience is; got None. Pass rows that training does not see.")
    if isinstance(valid, int | float | str):
        raise TypeError(f"valid must be rows, in any form that data takes; got {valid!r}. Split the data first.")
    if grad_clip is not None and not (is_number(grad_clip) and grad_clip > 0):
        raise ValueError(f"grad_clip must be positive; got {grad_clip!r}. It is the largest norm of the gradient.")


def _check_keeping(on_nonfinite: Any, run_dir: Any, resume: Any, checkpoint_every: Any) -> None:
    if not isinstance(on_nonfinite, str) or on_nonfinite not in ("raise", "skip"):
        raise ValueError(f"on_nonfinite must be 'raise' or 'skip'; got {on_nonfinite!r}. Choose one of these.")
    if run_dir is not None:
        as_path("run_dir", run_dir)
    if true_or_false("resume", resume) and run_dir is None:
        raise ValueError("run_dir must be given where resume is; got None. Pass the folder of the run.")
    positive_number("checkpoint_every", checkpoint_every)


def _configuration(
    model: ProgramPair, batches: Batches, held_out: Batches | None, plan: dict[str, Any]
) -> dict[str, Any]:
    """What a run is that goes on: another one of these would give other numbers."""
    tensors = {name: f"{tensor.dtype} {tuple(tensor.shape)}" for name, tensor in model.state_dict().items()}
    whole = description.configuration(model)
    return {
        "model": whole["model"],
        "arguments": whole["arguments"],
        "tensors": tensors,
        "data": batches.describe(),
        "valid": None if held_out is None else held_out.describe(),
        **{name: described(value) for name, value in plan.items()},
    }


def _refuse_strangers(configuration: dict[str, Any]) -> None:
    """Raise, in all processes, unless `fit` was called alike in them."""
    first, *others = processes.gathered(json.loads(json.dumps(configuration)))
    for number, other in enumerate(others, 1):
        if found := differences(first, other, "in process 0", f"in process {number}"):
            raise ValueError(
                f"fit must be called alike in all processes; got {found}. Give each the same data and options: rows are"
                " shared out by fit itself."
            )


def _open_the_door(model: ProgramPair, batches: Batches, elbo: pyro.infer.ELBO) -> Estimator:
    """Check the first batch strictly; returns the estimator to train with."""
    with preserved_rng():
        batch = batches.read(batches.first())
    x, fields = batch.pop("x"), batch
    row_weights = {"row_weights": fields.pop("row_weights")} if "row_weights" in fields else {}
    estimator = from_pyro(elbo, reparameterized=first_batch.check_programs(model, x, fields))
    first_batch.check_gradients(model, estimator, x, num_rows=batches.num_rows, **row_weights, **fields)
    return estimator


def _step(eager: EagerStep, epochs: int, compile: bool | str, keeper: Keeper | None) -> EagerStep | CompiledStep:
    """The way to take steps: as before where a run goes on, else compiled where asked for or where it repays itself."""
    kept = {} if keeper is None or keeper.saved is None else keeper.facts
    wanted = kept.get("compiled", compile)
    eager.num_threads = kept.get("num_threads", eager.num_threads)
    step: EagerStep | CompiledStep = eager
    if compile != "auto" and wanted != compile:
        logger.warning("The run goes on with %s steps, as it began.", "compiled" if wanted else "the interpreter's")
    if epochs > 0 and (capture.pays(eager, epochs) if wanted == "auto" else wanted):
        try:
            num_threads = kept.get("num_threads", capture.threads(eager))
            step = CompiledStep(eager, eager.batches.first(), num_threads=num_threads)
        except CaptureError as reason:
            if compile is True:
                raise RuntimeError(
                    f"The step must be one that can be captured; got {reason}. Change the program, or pass"
                    " compile='auto'."
                ) from reason
            logger.warning("Training is not compiled: %s.", reason)
    if keeper is not None:
        keeper.facts |= {"num_threads": step.num_threads}
    return step
