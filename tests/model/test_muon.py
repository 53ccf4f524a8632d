"""The optimiser: matrices move in all directions alike, everything else as Adam moves it."""

import pytest
import torch

from potstill.model.muon import MATCH, Muon, orthogonal


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(5, 5), (3, 20), (20, 3), (2, 4, 7, 6), (1, 9)])
def test_matrices_become_nearly_orthogonal_and_keep_their_directions(shape):
    X = random(*shape)
    Y = orthogonal(X)
    U, _, V = torch.linalg.svd(X, full_matrices=False)
    in_its_axes = U.mT @ Y @ V.mT
    sizes = torch.diagonal(in_its_axes, dim1=-2, dim2=-1)
    assert Y.shape == X.shape
    assert sizes.min() > 0.3
    assert sizes.max() < 1.4
    assert (in_its_axes - torch.diag_embed(sizes)).abs().max() < 1e-3


def test_the_size_of_a_matrix_does_not_matter_and_nothing_stays_nothing():
    X = random(6, 4)
    torch.testing.assert_close(orthogonal(1e-6 * X), orthogonal(X), atol=1e-3, rtol=0)
    assert not orthogonal(torch.zeros(3, 4)).any()


def test_one_learning_rate_moves_matrices_and_vectors_alike():
    """The root mean square of a first step is the rate times what Adam's usual update has, or the rate itself."""
    matrix, vector = random(2, 3, 20, 20), random(2, 3, 20)
    before = matrix.clone(), vector.clone()
    matrix.grad, vector.grad = random(2, 3, 20, 20, seed=1), random(2, 3, 20, seed=1)
    Muon([matrix, vector]).step(0.01)
    moved = [(a - b).square().mean().sqrt().item() for a, b in zip((matrix, vector), before, strict=True)]
    assert moved[0] == pytest.approx(0.01 * MATCH, rel=0.35)
    assert moved[1] == pytest.approx(0.01, rel=0.01)


def test_parameters_without_a_gradient_stay():
    a, b = random(1, 1, 4, 4), random(3)
    before = a.clone(), b.clone()
    optimiser = Muon([a, b])
    a.grad = random(1, 1, 4, 4, seed=2)
    optimiser.zero_grad()
    optimiser.step(0.1)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


def test_a_badly_scaled_problem_is_solved():
    """A linear map learnt from inputs whose directions differ a hundredfold in size."""
    x = random(64, 6) * torch.logspace(0, -2, 6)
    target = random(6, 5, seed=3)
    W, b = torch.zeros(1, 1, 6, 5, requires_grad=True), torch.zeros(1, 1, 5, requires_grad=True)
    optimiser, losses = Muon([W, b]), []
    for step in range(300):
        loss = ((x @ W[0, 0] + b[0, 0] - x @ target - 1.0) ** 2).mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step(0.3 * (1 - step / 300))
    assert losses[-1] < 1e-4 * losses[0]
