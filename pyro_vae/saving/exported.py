"""Parts of a VAE as files of `torch.export`, which run where pyro_vae is not installed."""

from __future__ import annotations

import io
import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.arguments import as_path
from pyro_vae.fields import OBSERVED
from pyro_vae.graphs import functions
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.saving import files

__all__ = ["PARTS", "export"]


class _Part(nn.Module):
    """A function of tensors, and the VAE that holds its parameters."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def p_x(self, z: Tensor) -> Any:
        return self.vae.likelihood(self.vae.decoder(z))


class _Decoder(_Part):
    def forward(self, z: Tensor) -> Tensor:
        return self.p_x(z).mean  # type: ignore[no-any-return]


class _Encoder(_Part):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q = self.vae.family(self.vae._guide_parameters(x, {}))
        return q.mean, q.variance.sqrt()


class _LogDensity(_Part):
    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        p_z = self.vae.prior(posterior=self.vae._posterior)
        return self.p_x(z).log_prob(x) + p_z.log_prob(z)  # type: ignore[no-any-return]


PARTS: dict[str, type[_Part]] = {"decoder": _Decoder, "encoder": _Encoder, "log_density": _LogDensity}
# Operations of our own, in a form that other processes know
DECOMPOSED = {
    torch.ops.pyro_vae.log_rising.default: functions.log_rising,
    torch.ops.pyro_vae.rising_slopes.default: functions.rising_slopes,
}


def export(vae: Any, path: str | os.PathLike[str], part: str) -> None:
    """Write a part of a VAE; see `VAE.export`.

    Args:
        vae: the VAE.
        path: the file.
        part: one of `PARTS`.

    Raises:
        ValueError, NotImplementedError: as `VAE.export`.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}; got {part!r}. Choose one.")
    file = as_path("path", path)
    if file.suffix != ".pt2":
        raise ValueError(f"path must be a .pt2 file; got {str(path)!r}. Change the name.")
    required = {name for name, field in vae.fields.items() if field.required} | set(vae.schema.fields or ())
    if required - {OBSERVED}:
        raise NotImplementedError(
            f"the model must read no fields to be exported; got {sorted(required)}. Save it, and use `pv.load`."
        )
    if part == "log_density" and vae.missing is not None:
        raise NotImplementedError(
            "missing must be None to export the log-density, whose cells would depend on the row; got"
            f" {vae.missing!r}. Export the encoder and the decoder."
        )
    x = vae.sample(3, seed=0).to(vae.like.dtype)
    z = x.new_zeros(len(x), vae.prior.latent_dim)
    inputs = {"decoder": {"z": z}, "encoder": {"x": x}, "log_density": {"x": x, "z": z}}[part]
    open_rows = torch.export.Dim("rows", min=1)
    content = io.BytesIO()
    with evaluating(vae), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _check_known(PARTS[part](vae)(**inputs))
            program = torch.export.export(
                PARTS[part](vae),
                (),
                inputs,
                dynamic_shapes={name: {0: open_rows} for name in inputs},
                strict=False,
            ).run_decompositions(DECOMPOSED)
        except NotImplementedError as error:
            raise NotImplementedError(
                f"part must have a mean and a variance in closed form; got {type(error).__name__}: {error}. Export"
                " another part, or use `pv.load`."
            ) from error
        except Exception as error:
            text = str(error).strip().partition("\n")[0]
            raise NotImplementedError(
                f"part must be what torch.export can record; got {type(error).__name__}: {text}. Save the model, and"
                " use `pv.load`."
            ) from error
        torch.export.save(program, content)
    files.write_bytes(file, content.getvalue())


def _check_known(values: Any) -> None:
    if any(value.isnan().any() for value in (values if isinstance(values, tuple) else (values,))):
        raise NotImplementedError("a mean or a variance that does not exist")
