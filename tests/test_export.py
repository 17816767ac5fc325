"""Exported parts: the same numbers in a process that has torch alone, for any number of rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import IMAGE, draw_data, small_vae

import pyro_vae as pv
from pyro_vae import guides, likelihoods, nets, priors

LOADED = """
import sys
sys.modules["pyro_vae"] = sys.modules["pyro"] = None  # an import of either fails
import torch
for folder in sys.argv[1:]:
    inputs, found = torch.load(folder + "/inputs.pt"), {}
    for part, names in {"decoder": "z", "encoder": "x", "log_density": "xz"}.items():
        run = torch.export.load(f"{folder}/{part}.pt2").module()
        found[part] = [run(**{n: inputs[n][:rows] for n in names}) for rows in (1, 5)]
    torch.save(found, folder + "/found.pt")
"""


def cases() -> dict[str, pv.VAE]:
    """Models whose programs differ in what they are made of."""
    return {
        "counts of a small total": small_vae(likelihood=likelihoods.BetaBinomial((2, 3), 7)),
        "images": pv.VAE(
            likelihood=likelihoods.Bernoulli(IMAGE),
            prior=priors.Normal(3),
            guide=guides.LowRankNormal(rank=2),
            encoder=nets.Conv(),
            decoder=nets.Conv(),
            seed=0,
        ).double(),
        "mixture and standardised reals": small_vae(
            likelihood=likelihoods.Normal((2, 3), scale="predicted"), prior=priors.Mixture(3, num_components=4)
        ),
    }


@pytest.mark.slow
def test_exported_parts_give_the_same_numbers_where_pyro_vae_is_not_installed(tmp_path: Path) -> None:
    expected = {}
    for name, vae in cases().items():
        folder = tmp_path / name
        folder.mkdir()
        x = draw_data(vae.likelihood, 5).to(vae.like.dtype)
        vae.initialize(x)
        for part in ("decoder", "encoder", "log_density"):
            vae.export(folder / f"{part}.pt2", part=part)
        z = torch.randn(5, 3, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
        torch.save({"x": x, "z": z}, folder / "inputs.pt")
        q, log_joint = vae.encode(x), vae.decode(z).log_prob(x) + vae.prior().log_prob(z)
        expected[folder] = {"decoder": [vae.decode(z).mean], "encoder": [q.mean, q.variance.sqrt()]}
        expected[folder]["log_density"] = [log_joint]
    subprocess.run([sys.executable, "-c", LOADED, *map(str, expected)], check=True, capture_output=True, timeout=300)
    for folder, parts in expected.items():
        found = torch.load(folder / "found.pt")
        for part, values in parts.items():
            for i, value in enumerate(values):
                one, five = (f if isinstance(f, torch.Tensor) else f[i] for f in found[part])
                torch.testing.assert_close(five, value, check_dtype=False)
                torch.testing.assert_close(one, value[:1], check_dtype=False)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # older versions of torch, as they load
def test_an_exported_encoder_reads_missing_cells(tmp_path: Path) -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).masked_fill(
        torch.eye(6, 4, dtype=torch.bool), torch.nan
    )
    vae = pv.VAE(likelihood=likelihoods.Normal(4), prior=priors.Normal(2), missing=pv.missing.AtRandom(), seed=0)
    vae.fit(x, epochs=1, seed=0, progress=False)
    vae.export(tmp_path / "encoder.pt2", part="encoder")
    mean, _ = torch.export.load(tmp_path / "encoder.pt2").module()(x=x)
    torch.testing.assert_close(mean, vae.encode(x).mean)
    with pytest.raises(NotImplementedError, match="missing must be None to export the log-density"):
        vae.export(tmp_path / "log_density.pt2", part="log_density")


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    vae = small_vae()
    with pytest.raises(ValueError, match="part must be one of decoder, encoder, log_density; got 'prior'"):
        vae.export(tmp_path / "a.pt2", part="prior")
    with pytest.raises(ValueError, match=r"path must be a .pt2 file; got .*a.pt'"):
        vae.export(tmp_path / "a.pt")
    with pytest.raises(NotImplementedError, match="must have a mean and a variance in closed form"):
        small_vae(guide=guides.Flow(hidden=(6,))).export(tmp_path / "a.pt2", part="encoder")
    with pytest.raises(NotImplementedError, match="a mean or a variance that does not exist"):
        small_vae(likelihood=likelihoods.StudentT((2, 3), df=1.0)).export(tmp_path / "a.pt2")
    with pytest.raises(NotImplementedError, match="likelihood must have cells with means .* got levels in no order"):
        small_vae(likelihood=likelihoods.Categorical((2, 3), 4)).export(tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())
    counts = small_vae(likelihood=likelihoods.Poisson((2, 3)))
    counts.fit(torch.ones(20, 2, 3), fields={"offset": torch.zeros(20)}, epochs=1, seed=0, progress=False)
    with pytest.raises(NotImplementedError, match=r"must read no fields to be exported; got \['offset'\]"):
        counts.export(tmp_path / "a.pt2")
