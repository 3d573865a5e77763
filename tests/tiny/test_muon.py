"""Our Muon is torch's, but for its precision."""

import torch

from arislab.tiny.muon import Muon


def test_our_muon_takes_the_steps_of_torch():
    torch.manual_seed(0)
    shapes = [(64, 32), (32, 32), (32, 64), (32, 32)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizers = [Muon(ours, lr=0.1, weight_decay=0.1), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.1)]
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=0.01)  # theirs iterates in bfloat16
