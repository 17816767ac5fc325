"""Files of version 0.1.0 load and give the same numbers, and its checkpoints are resumed.

`tests/data/earlier` holds two models and three run folders that version 0.1.0 wrote from the data of `rows`: a VAE with
five parts of ours, a VAE whose guide is a flow, an eager run, a compiled one and one with a flow, of two epochs each.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import pyro_vae as pv

EARLIER = Path(__file__).parent / "data" / "earlier"


def rows() -> Tensor:
    """The data that the files were made from: counts of at most five, (40, 4)."""
    return (torch.rand(40, 4, generator=torch.Generator().manual_seed(0)) * 6).floor()


def plain(seed: int = 0) -> pv.VAE:
    return pv.VAE(
        likelihood=pv.likelihoods.Binomial(4, total_count=6),
        prior=pv.priors.Normal(2),
        encoder=pv.nets.MLP(hidden=(8,)),
        decoder=pv.nets.MLP(hidden=(8,)),
        seed=seed,
    )


def with_flow(seed: int = 0) -> pv.VAE:
    return pv.VAE(
        likelihood=pv.likelihoods.Product({"a": pv.likelihoods.Normal(2), "b": pv.likelihoods.Poisson(2)}),
        prior=pv.priors.Mixture(2, 3),
        guide=pv.guides.Flow(layers=1, hidden=(4,), context_dim=2),
        encoder=pv.nets.MLP(hidden=(8,)),
        decoder=pv.nets.MLP(hidden=(8,)),
        seed=seed,
    )


def flow_run() -> pv.VAE:
    return pv.VAE(
        likelihood=pv.likelihoods.Normal(4),
        prior=pv.priors.Normal(2),
        guide=pv.guides.Flow(layers=1, hidden=(4,), context_dim=2),
        encoder=pv.nets.MLP(hidden=(8,)),
        decoder=pv.nets.MLP(hidden=(8,)),
        seed=0,
    )


@pytest.mark.parametrize(("name", "make"), [("vae", plain), ("flow_guide", with_flow)])
def test_a_saved_model_loads_with_the_same_tensors_and_gives_the_same_numbers(name: str, make: Any) -> None:
    loaded, tensors = pv.load(EARLIER / name), load_file(EARLIER / name / "model.safetensors")
    state = loaded.state_dict()
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[key], value) for key, value in tensors.items())
    made = make(seed=1)
    assert not torch.equal(made.state_dict()["encoder.module.0.weight"], tensors["encoder.module.0.weight"])
    made.load_state_dict(tensors)
    first, second = (vae.log_likelihood(rows(), num_particles=20, seed=0).estimate for vae in (loaded, made))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("run", "options"),
    [
        ("run", {"compile": False, "elbo": pv.elbos.IWAE(num_particles=3), "valid": rows()[:10], "patience": 5}),
        ("compiled_run", {"compile": True}),
        ("flow_run", {"compile": False}),
    ],
)
def test_a_checkpoint_is_resumed_as_if_the_run_had_not_been_interrupted(
    run: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """Up to the rounding of another processor than the one that wrote the checkpoint."""
    shutil.copytree(EARLIER / run, tmp_path / run)
    common = {"batch_size": 16, "seed": 0, "progress": False} | options
    make = flow_run if run == "flow_run" else plain
    resumed, whole = make(), make()
    history = resumed.fit(rows(), epochs=4, run_dir=tmp_path / run, resume=True, **common)
    expected = whole.fit(rows(), epochs=4, **common)
    assert history["epoch"] == [1, 2, 3, 4]
    assert history["train_bound"] == pytest.approx(expected["train_bound"], rel=1e-5)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    shutil.copytree(EARLIER / "run", tmp_path / "run")
    options: dict[str, Any] = {"elbo": pv.elbos.IWAE(num_particles=3), "valid": rows()[:10], "patience": 5, "seed": 0}
    with pytest.raises(ValueError, match="resume must continue the same run; got batch_size 16 then and 8 now"):
        plain().fit(
            rows(),
            epochs=4,
            batch_size=8,
            run_dir=tmp_path / "run",
            resume=True,
            progress=False,
            compile=False,
            **options,
        )
