"""Parameters and moments as slices of flat tensors, so that one operation updates all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.graphs.graph import CaptureError

__all__ = ["Flat", "FlatAdam", "FlatOptimizer"]

ALIGNMENT = 64  # bytes: slices begin at multiples of it


class Flat:
    """Tensors side by side in one flat tensor, each slice aligned."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        kinds = {(tensor.dtype, tensor.device) for tensor in tensors}
        if len(kinds) > 1 or not tensors[0].is_floating_point():
            raise CaptureError(f"parameters have several dtypes or devices: {sorted(map(str, kinds))}")
        unit = max(1, ALIGNMENT // tensors[0].element_size())
        self.shapes = [tensor.shape for tensor in tensors]
        self.sizes = [tensor.numel() for tensor in tensors]
        self.padding = [-size % unit for size in self.sizes]

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """One flat tensor of these tensors."""
        parts = []
        for tensor, padding in zip(tensors, self.padding, strict=True):
            parts += [tensor.reshape(-1), *([tensor.new_zeros(padding)] if padding else [])]
        return torch.cat(parts)

    def split(self, flat: Tensor) -> Iterator[Tensor]:
        """Views of a flat tensor's slices, in their shapes."""
        start = 0
        for shape, size, padding in zip(self.shapes, self.sizes, self.padding, strict=True):
            yield flat[start : start + size].view(shape)
            start += size + padding


class FlatOptimizer:
    """The optimizer's step outside of the graph, on a flat gradient whose slices are the parameters' gradients."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
        self.optimizer, self.parameters = optimizer, parameters
        self.flat = Flat(parameters)
        self.tensors = {"parameters": self.flat.join([parameter.detach() for parameter in parameters])}
        for parameter, view in zip(parameters, self.flat.split(self.tensors["parameters"]), strict=True):
            parameter.data = view
        self._take_state()

    def _take_state(self) -> None:
        self.tensors["gradient"] = torch.zeros_like(self.tensors["parameters"])
        self.gradients = list(self.flat.split(self.tensors["gradient"]))

    @property
    def options(self) -> list[dict[str, Any]]:
        """The options of the parameter groups that the graph treats as constant."""
        return [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in self.optimizer.param_groups]

    @property
    def addresses(self) -> list[int]:
        """The addresses of the optimizer's moments, which change when its state is loaded again."""
        return []

    def controls(self) -> list[float]:
        """The numbers that `update` needs and that change from step to step."""
        return []

    def update(self, tensors: dict[str, Tensor], gradient: Tensor, finite: Tensor, controls: Tensor) -> None:
        """Update from the flat gradient; this is the last part of the graph."""
        tensors["gradient"].copy_(gradient)

    def show_gradients(self) -> None:
        """Give the parameters the gradients that the graph computed."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient

    def step(self) -> None:
        """Finish a step after the graph has run."""
        self.show_gradients()
        self.optimizer.step()

    def settle(self) -> None:
        """Bring the optimizer's own state up to date."""

    def after_eager(self) -> None:
        """Note that an eager step was taken."""

    def close(self) -> None:
        """Give every parameter memory of its own."""
        for parameter in self.parameters:
            parameter.data = parameter.data.clone()


class FlatAdam(FlatOptimizer):
    """Adam or AdamW inside the graph, on flat parameters and moments, whose slices are the optimizer's state."""

    moments = ("exp_avg", "exp_avg_sq")

    @staticmethod
    def fits(optimizer: torch.optim.Optimizer) -> bool:
        """Whether this is plain Adam or AdamW with one group, and all parameters have taken equally many steps."""
        if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW) or len(optimizer.param_groups) > 1:
            return False
        group = optimizer.param_groups[0]
        plain = not (group["amsgrad"] or group["maximize"] or isinstance(group["lr"], Tensor))
        states = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
        return plain and len({float(state["step"]) if state else 0.0 for state in states}) == 1

    def _take_state(self) -> None:
        self.group = self.optimizer.param_groups[0]
        states: list[Any] = [self.optimizer.state[parameter] for parameter in self.parameters]
        self.count = int(states[0].get("step", 0))
        for state, parameter in zip(states, self.parameters, strict=True):
            if not state:
                device = parameter.device if self.group["fused"] or self.group["capturable"] else "cpu"
                state["step"] = torch.zeros((), device=device)
                state |= {name: torch.zeros_like(parameter) for name in self.moments}
        for name in self.moments:
            self.tensors[name] = self.flat.join([state[name] for state in states])
            for state, view in zip(states, self.flat.split(self.tensors[name]), strict=True):
                state[name] = view

    @property
    def addresses(self) -> list[int]:
        states: list[Any] = [self.optimizer.state.get(parameter, {}) for parameter in self.parameters]
        return [state[name].data_ptr() if name in state else 0 for state in states for name in self.moments]

    def controls(self) -> list[float]:
        (beta1, beta2), rate = self.group["betas"], self.group["lr"]
        step = self.count + 1
        decay = self.group["weight_decay"]
        return [
            rate / (1.0 - beta1**step),
            (1.0 - beta2**step) ** -0.5,
            rate * decay if self.group["decoupled_weight_decay"] else decay,
        ]

    def update(self, tensors: dict[str, Tensor], gradient: Tensor, finite: Tensor, controls: Tensor) -> None:
        (beta1, beta2), old = self.group["betas"], tensors["parameters"]
        step_size, root, decay = controls.unbind()
        new = old
        if self.group["weight_decay"] and self.group["decoupled_weight_decay"]:
            new = old - decay * old
        elif self.group["weight_decay"]:
            gradient = gradient + decay * old
        first = torch.lerp(tensors["exp_avg"], gradient, 1.0 - beta1)
        second = tensors["exp_avg_sq"] * beta2 + gradient * gradient * (1.0 - beta2)
        new = new - step_size * first / (second.sqrt() * root + self.group["eps"])
        for name, value in zip(("parameters", *self.moments), (new, first, second), strict=True):
            tensors[name].copy_(torch.where(finite, value, tensors[name]))

    def step(self) -> None:
        self.count += 1

    def settle(self) -> None:
        for state in self._states():
            state["step"].fill_(self.count)

    def after_eager(self) -> None:
        self.count += 1

    def close(self) -> None:
        self.settle()
        super().close()
        for state in self._states():
            state |= {name: state[name].clone() for name in self.moments}

    def _states(self) -> list[Any]:
        """The optimizer's state of each parameter that has one."""
        return [self.optimizer.state[p] for p in self.parameters if self.optimizer.state.get(p)]
