"""Models, data and contenders of `training.py`: functions that take training steps with one library or another."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import pyro_vae as pv
from pyro_vae.data.batches import Batches
from pyro_vae.graphs.rules import LARGE, prefers_onednn
from pyro_vae.parts import as_scale
from pyro_vae.runtime.isolation import isolated
from pyro_vae.runtime.precision import has_bfloat16
from pyro_vae.runtime.processor import tuned_processor
from pyro_vae.runtime.random import seeded
from pyro_vae.training import first_batch
from pyro_vae.training.compiled.step import CompiledStep, choose_num_threads
from pyro_vae.training.eager import EagerStep
from pyro_vae.training.state import prepare_state


def optional(module: str) -> Any:
    """A module, or None if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


jax, numpyro, pythae = map(optional, ("jax", "numpyro", "pythae.models"))
ROWS = 61_440  # about the number of MNIST, and a multiple of every batch size
Run = Callable[[int], None]  # takes the given number of steps


# The models and their data


def vae(event: int | tuple[int, ...], encoder: pv.nets.Recipe, decoder: pv.nets.Recipe, latent: int) -> pv.VAE:
    likelihood, prior = pv.likelihoods.Bernoulli(event), pv.priors.Normal(latent)
    return pv.VAE(likelihood=likelihood, prior=prior, encoder=encoder, decoder=decoder)


def dense(columns: int, hidden: tuple[int, ...], latent: int, activation: str = "relu") -> pv.VAE:
    return vae(columns, pv.nets.MLP(hidden, activation), pv.nets.MLP(hidden[::-1], activation), latent)


def normal(parameters: Tensor) -> dist.TorchDistribution:
    loc, raw = parameters.chunk(2, -1)
    return dist.Normal(loc, as_scale(raw)).to_event(1)


class TwoLayers(pv.LatentVariableModel):
    """z2 -> z1 -> x, and x -> z1 -> z2."""

    def __init__(self) -> None:
        super().__init__()
        wide, narrow = pv.nets.MLP((400,)), pv.nets.MLP((100,))
        self.up1, self.up2 = wide.build((784,), (80,)), narrow.build((40,), (20,))
        self.down2, self.down1 = narrow.build((10,), (80,)), wide.build((40,), (784,))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(10), 1.0).to_event(1))
            z1 = pyro.sample("z1", normal(self.down2(z2)))
            return pyro.sample("x", dist.Bernoulli(logits=self.down1(z1)).to_event(1), obs=x)

    def guide(self, x: Tensor, **batch: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", normal(self.up1(x)))
            pyro.sample("z2", normal(self.up2(z1)))


class ItemResponse(pv.LatentVariableModel):
    """A user's own program: answers depend on two abilities and a tendency to say yes, whose scale is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes, self.easiness = nn.Parameter(0.1 * torch.randn(2, 10)), nn.Parameter(torch.zeros(10))
        self.spread = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)
        self.encoder = pv.nets.MLP((32,)).build((10,), (6,))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows):
            yes = pyro.sample("yes", dist.Normal(0.0, self.spread))
            ability = pyro.sample("ability", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = self.easiness + yes.unsqueeze(-1) + ability @ self.slopes
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor, **batch: Tensor) -> None:
        yes, ability = self.encoder(x).split((2, 4), -1)
        with pyro.plate("data", len(x)):
            pyro.sample("yes", dist.Normal(yes[..., 0], as_scale(yes[..., 1])))
            pyro.sample("ability", normal(ability))


@cache
def binary_rows(event: tuple[int, ...]) -> Tensor:
    """Random binary rows whose logits are linear in ten factors, so that there is something to learn."""
    with seeded(0):
        logits = torch.randn(ROWS, 10) @ torch.randn(10, math.prod(event))
        return torch.bernoulli(logits.sigmoid()).reshape(ROWS, *event)


@dataclass(frozen=True)
class Case:
    """A model, the shape of a row, the sizes of a batch and of a round (in steps), and the contenders."""

    name: str
    make: Callable[[], Any]
    event: tuple[int, ...]
    batch: int
    steps: int
    contenders: tuple[str, ...]
    particles: int = 1

    @property
    def data(self) -> Tensor:
        return binary_rows(self.event)

    def model(self) -> Any:
        """A new model, the same every time."""
        with seeded(0):
            model = self.make()
        with torch.no_grad():
            model.initialize(self.data)
        return model.train()

    def order(self) -> Iterator[Tensor]:
        """The indices of the rows of each batch, without end."""
        while True:
            yield from torch.randperm(ROWS).split(self.batch)


# The contenders: functions from a case to a function that takes steps


def eager_step(case: Case, precision: str = "float32") -> EagerStep:
    model = case.model()
    estimator = pv.elbos.ELBO() if case.particles == 1 else pv.elbos.IWAE(num_particles=case.particles)
    batches = Batches(case.data, like=model.like, batch_size=case.batch)
    x = batches.read(batches.first())["x"]
    first_batch.check_gradients(model, estimator, x, num_rows=ROWS)  # as `fit` does: it counts the plates
    return EagerStep(model, estimator, prepare_state(model, None, None).optimizer, batches, precision=precision)


def compiled_step(case: Case, precision: str = "float32") -> CompiledStep:
    eager = eager_step(case, precision)
    return CompiledStep(eager, eager.batches.first(), num_threads=choose_num_threads(eager))


def ours(case: Case, step: EagerStep | CompiledStep) -> Run:
    """What `fit` does between its checks of the first batch and the history that it returns."""
    keys = case.order()

    def run(steps: int) -> None:
        step.begin_epoch()
        with isolated(), tuned_processor(step.num_threads):
            for key in islice(keys, steps):
                step(key)
                step.estimator.step += 1

    return run


def plain_pyro(case: Case) -> Run:
    data, keys, model, particles = case.data, case.order(), case.model(), case.particles
    renyi = RenyiELBO(alpha=0, num_particles=max(particles, 2), vectorize_particles=True)
    loss = renyi if particles > 1 else Trace_ELBO()
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-3}), loss=loss)

    def run(steps: int) -> None:
        for key in islice(keys, steps):
            svi.step(data[key])

    return run


def torch_loop(case: Case, module: nn.Module, loss_function: Callable[[Tensor], Tensor]) -> Run:
    data, keys = case.data, case.order()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)

    def run(steps: int) -> None:
        for key in islice(keys, steps):
            loss = loss_function(data[key])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def by_hand(case: Case, *, compiled: bool) -> Run:
    model, particles = case.model(), case.particles
    encoder, decoder = model.encoder.module, model.decoder.module

    def loss(x: Tensor) -> Tensor:
        loc, raw = encoder(x).chunk(2, -1)
        scale = as_scale(raw)
        noise = torch.randn_like(loc) if particles == 1 else torch.randn(particles, *loc.shape)
        z = loc + scale * noise
        log_ratio = 0.5 * (noise.square() - z.square()) + scale.log()  # log p(z) - log q(z | x)
        logits = decoder(z)
        if particles == 1:
            return (binary_cross_entropy_with_logits(logits, x, reduction="sum") - log_ratio.sum()) / len(x)
        log_p = -binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return math.log(particles) - (log_p + log_ratio.sum(-1)).logsumexp(0).mean()

    return torch_loop(case, model, torch.compile(loss) if compiled else loss)


def by_pythae(case: Case) -> Run:
    class Net(pythae.nn.BaseEncoder, pythae.nn.BaseDecoder):
        def __init__(self, net: nn.Module, name: Callable[[Tensor], dict[str, Tensor]]) -> None:
            super().__init__()
            self.net, self.name = net, name

        def forward(self, x: Tensor) -> Any:
            return pythae.base.base_utils.ModelOutput(**self.name(self.net(x)))

    def posterior(y: Tensor) -> dict[str, Tensor]:
        return dict(zip(("embedding", "log_covariance"), y.chunk(2, -1), strict=True))

    model = case.model()
    encoder = Net(model.encoder.module, posterior)
    decoder = Net(model.decoder.module, lambda y: {"reconstruction": y.sigmoid()})
    config = pythae.VAEConfig(case.event, model.prior.latent_dim, reconstruction_loss="bce")
    module = pythae.VAE(config, encoder, decoder)
    return torch_loop(case, module, lambda x: module({"data": x}).loss)


def by_numpyro(case: Case) -> Run:
    numpyro.set_platform("cpu")
    jnp, normal, bernoulli = jax.numpy, numpyro.distributions.Normal, numpyro.distributions.Bernoulli
    data, keys, torch_model = jnp.from_dlpack(case.data), case.order(), case.model()
    latent, activation = torch_model.prior.latent_dim, getattr(jax.nn, torch_model.nets["encoder"].activation)
    start = {
        name: [[jnp.asarray(p.detach().numpy().T) for p in layer.parameters()] for layer in linear_layers(net)]
        for name, net in (("encoder", torch_model.encoder), ("decoder", torch_model.decoder))
    }

    def net(name: str, x: Any) -> Any:
        *hidden, (last_weight, last_bias) = numpyro.param(name, start[name])
        for weight, bias in hidden:
            x = activation(x @ weight + bias)
        return x @ last_weight + last_bias

    def model(x: Any) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", normal(jnp.zeros(latent), 1.0).to_event(1))
            numpyro.sample("x", bernoulli(logits=net("decoder", z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        loc, raw = jnp.split(net("encoder", x), 2, -1)
        scale = jax.nn.softplus(raw + 0.5413248546129181) + 1e-6
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", normal(loc, scale).to_event(1))

    renyi = numpyro.infer.RenyiELBO(alpha=0, num_particles=case.particles)
    loss = renyi if case.particles > 1 else numpyro.infer.Trace_ELBO()
    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(1e-3), loss)
    state = svi.init(jax.random.key(0), data[: case.batch])

    @jax.jit
    def loop(state: Any, data: Any, keys: Any) -> Any:
        return jax.lax.scan(lambda state, key: svi.update(state, data[key]), state, keys)

    def run(steps: int) -> None:
        nonlocal state
        state, losses = loop(state, data, jnp.asarray(torch.stack(list(islice(keys, steps))).int().numpy()))
        jax.block_until_ready((state, losses))

    return run


def floor(case: Case) -> Run:
    eager = eager_step(case)  # for its parameters, optimizer and number of threads
    for parameter in eager.parameters:
        parameter.grad = torch.zeros_like(parameter)
    products: list[tuple[Tensor, Tensor, Tensor]] = []
    for net, rows in ((eager.model.encoder, case.batch), (eager.model.decoder, case.batch * case.particles)):
        for layer in linear_layers(net):
            weight, first = layer.weight.detach(), not products
            x, g = (torch.randn(rows, size) for size in reversed(weight.shape))
            products += [(x, weight.T, torch.empty_like(g)), (g.T, x, layer.weight.grad)]
            products += [] if first else [(g, weight, torch.empty_like(x))]  # the data need no gradient

    def multiply(left: Tensor, right: Tensor, product: Tensor) -> None:
        if prefers_onednn() and left.numel() * right.shape[1] >= LARGE:
            torch.ops.mkldnn._linear_pointwise(left, right.T, None, "none", [], "")
        else:
            torch.mm(left, right, out=product)

    def run(steps: int) -> None:
        with tuned_processor(choose_num_threads(eager)):
            for _ in range(steps):
                for matrices in products:
                    multiply(*matrices)
                eager.optimizer.step()

    return run


def linear_layers(net: nn.Module) -> list[nn.Linear]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Linear)]


OURS = "ours, compiled"
CONTENDERS: dict[str, Callable[[Case], Run] | None] = {
    OURS: lambda case: ours(case, compiled_step(case)),
    "ours, compiled, bf16-mixed": (
        (lambda case: ours(case, compiled_step(case, "bf16-mixed"))) if has_bfloat16(torch.device("cpu")) else None
    ),
    "ours, uncompiled": lambda case: ours(case, eager_step(case)),
    "pyro.infer.SVI": plain_pyro,
    "PyTorch by hand, uncompiled": partial(by_hand, compiled=False),
    "PyTorch by hand, torch.compile": partial(by_hand, compiled=True),
    "NumPyro, compiled loop": by_numpyro if numpyro else None,
    "pythae": by_pythae if pythae else None,
    "floor": floor,
}
ALL = tuple(CONTENDERS)
CONV, RESNET, TANH = pv.nets.Conv(), pv.nets.ResNet(), partial(dense, 784, (200, 200), 50, "tanh")
CASES = {
    "a": Case("64-64-20, batch 32", partial(dense, 64, (64,), 20), (64,), 32, 800, ALL),
    "b": Case("784-400-20, batch 128", partial(dense, 784, (400,), 20), (784,), 128, 200, ALL),
    "c": Case("784-400-20, batch 512", partial(dense, 784, (400,), 20), (784,), 512, 60, ALL),
    "d": Case("Conv, batch 128", partial(vae, (1, 28, 28), CONV, CONV, 20), (1, 28, 28), 128, 50, ALL[:6]),
    "e": Case("IWAE-50, 784-200-200-50, batch 20", TANH, (784,), 20, 50, (*ALL[:7], "floor"), particles=50),
    "f": Case("two stochastic layers, batch 128", TwoLayers, (784,), 128, 150, (OURS, *ALL[2:4])),
    "g": Case("own program, 10 columns, batch 64", ItemResponse, (10,), 64, 500, (OURS, *ALL[2:4])),
    "h": Case("ResNet, batch 64", partial(vae, (1, 28, 28), RESNET, RESNET, 20), (1, 28, 28), 64, 10, ALL[:6]),
}
