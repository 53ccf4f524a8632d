"""The optimiser: orthogonalised momentum for weight matrices, Adam for everything else.

Muon (K. Jordan et al., 2024, kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest matrix
with equal singular values, so that all directions are learnt at a like pace: here it needs half of AdamW's steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

MOMENTUM = 0.95
BETAS = (0.9, 0.999)
DECAY = 1e-4  # of the weights, times the learning rate, each step
MATCH = 0.2  # root mean square of Adam's usual update: one learning rate then serves both kinds
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: singular values go to about 1 in five rounds


def orthogonal(matrices: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """Return matrices (…, m, n) with nearly all singular values near 1 and the same singular vectors."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    X: torch.Tensor = matrices.mT if tall else matrices
    X = X / (torch.linalg.norm(X, dim=(-2, -1), keepdim=True) + 1e-20)
    for _ in range(rounds):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X.mT if tall else X


class Muon:
    """Steps on parameters whose gradients are there; those with a last axis of more than one are matrices."""

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        self.parameters = list(parameters)
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.steps = 0

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move by one step."""
        self.steps += 1
        for p, first, second in zip(self.parameters, self.first, self.second, strict=True):
            if p.grad is None:
                continue
            p.mul_(1.0 - rate * DECAY)
            if p.dim() == 4 and p.shape[-1] > 1:
                first.lerp_(p.grad, 1.0 - MOMENTUM)
                move = orthogonal(torch.lerp(p.grad, first, MOMENTUM))
                p.add_(move, alpha=-rate * MATCH * math.sqrt(max(p.shape[-2:])))
            else:
                first.lerp_(p.grad, 1.0 - BETAS[0])
                second.mul_(BETAS[1]).addcmul_(p.grad, p.grad, value=1.0 - BETAS[1])
                size = (second / (1.0 - BETAS[1] ** self.steps)).sqrt_().add_(1e-8)
                p.addcdiv_(first, size, value=-rate / (1.0 - BETAS[0] ** self.steps))
