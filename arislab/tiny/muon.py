"""Muon in float32: torch.optim.Muon iterates in bfloat16, which a CPU without such instructions does ten times slower.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
"""

from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # steep at 0, so that five rounds do; singular values end near 1, not at 1


def orthogonal(update: torch.Tensor, *, n_iterations: int = 5) -> torch.Tensor:
    """Return matrices ``[..., m, n]`` with singular values near 1 (Newton-Schulz)."""
    a, b, c = COEFFICIENTS
    tall = update.shape[-2] > update.shape[-1]
    x = update.mT if tall else update  # the smaller of the two Gram matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1: beyond it they run away
    for _ in range(n_iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal; for matrices only."""

    def __init__(self, params: Any, *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def step(self) -> None:
        """Update all parameters; those of one shape together."""
        with torch.no_grad():
            self._step()

    def _step(self) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = {}
            for parameter in group["params"]:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                # stacked: many small products one by one are slower than one of a batch
                updates = torch.stack([self._momentum(parameter, group["momentum"]) for parameter in parameters])
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, orthogonal(updates), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)

    def _momentum(self, parameter: torch.Tensor, momentum: float) -> torch.Tensor:
        """Return the Nesterov update of a parameter."""
        buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        buffer.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(buffer, momentum)
