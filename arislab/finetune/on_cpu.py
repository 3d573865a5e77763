"""A model that trains on a CPU in fewer passes: the same sums, or those with the frozen matrices in bfloat16."""

import functools
from typing import Any

import torch
from peft.tuners.lora.layer import Linear

from arislab.errors import TrainingError
from arislab.tiny.decoder import SMALL_BYTES


def speed_up(model: Any, *, bfloat16: bool = False) -> dict[str, int]:
    """Compute the LoRA layers, and in models of over 64 MB the norms too, in about two thirds of the time.

    The sums are the same. Per layer y = x W' + s (x A') B'. Autograd multiplies B's gradient as (out x rows) @ (rows x
    r), nine times slower here than (r x rows) @ (rows x out), and makes separate passes for the scale and the sums.

    Args:
        model: From PEFT, in float32, with one adapter; nothing but its adapter is trained.
        bfloat16: Keep the frozen matrices beside the adapter in bfloat16, and round to it what is multiplied with them.
            What is trained, sums, norms, attention, embedding and logits stay in float32.

    Returns:
        How many layers and norms are computed so.

    Raises:
        TrainingError: No layer could be kept in bfloat16.
    """
    is_large, layers, norms = not is_small(model), 0, 0
    for module in model.modules():
        # no subclass, whose sums may be others: quantised layers, and LoRA with dropout of its own
        if type(module) is Linear and type(module.base_layer) is torch.nn.Linear:
            if bfloat16:
                module.base_layer.weight.data = module.base_layer.weight.data.bfloat16()
            module.forward = functools.partial(_lora, module)
            layers += 1
        elif is_large and (of_norm := _of_norm(module)) is not None:
            module.forward = functools.partial(_norm, *of_norm)
            norms += 1
    if bfloat16 and not layers:
        raise TrainingError(
            "no layer of this model is a plain linear one that bf16-lora can keep in bfloat16; use lora."
        )
    return {"layers": layers, "norms": norms}


def is_small(model: Any) -> bool:
    """Whether a model is trained with the sums as they were first: in another order they would round otherwise.

    Of a small model little is to be gained, and its recorded adapters are trained anew to the same bits.
    """
    return bool(sum(value.nbytes for value in model.parameters()) <= SMALL_BYTES)


def _lora(layer: Any, x: Any) -> Any:
    base, (name,) = layer.base_layer, layer.active_adapters
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    rows = x.reshape(-1, x.shape[-1])
    return _Lora.apply(rows, base.weight, base.bias, a, b, layer.scaling[name]).view(*x.shape[:-1], -1)


def _norm(factor: Any, eps: float, x: Any) -> Any:
    return _Norm.apply(x, factor, eps)


def _times(rows: Any, matrix: Any, bias: Any = None) -> Any:
    """Return a product, and a bias, in float32, whatever the matrix is kept in."""
    if matrix.dtype == rows.dtype:
        return rows @ matrix if bias is None else torch.addmm(bias, rows, matrix)
    out = (rows.to(matrix.dtype) @ matrix).float()
    return out if bias is None else out.add_(bias)


class _Lora(torch.autograd.Function):  # type: ignore[misc]  # torch is not typed here
    @staticmethod
    def forward(ctx: Any, rows: Any, weight: Any, bias: Any, a: Any, b: Any, scale: float) -> Any:
        low, scaled = rows @ a.t(), (b * scale).t().contiguous()
        out = _times(rows, weight.t(), bias)
        ctx.save_for_backward(rows, weight, a, low, scaled)
        ctx.scale = scale
        return out.addmm_(low, scaled)  # in place: nobody else holds `out`

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        rows, weight, a, low, scaled = ctx.saved_tensors
        grad_low = grad @ scaled.t()
        grad_a, grad_b = grad_low.t() @ rows, (low.t() @ grad).t() * ctx.scale
        grad_rows = None
        if ctx.needs_input_grad[0]:  # not in the first layer, whose input is the frozen embedding
            grad_rows = _times(grad, weight).addmm_(grad_low, a)
        return grad_rows, None, None, grad_a, grad_b, None


class _Norm(torch.autograd.Function):  # type: ignore[misc]
    """x / rms(x) * factor, of which the factor is not trained."""

    @staticmethod
    def forward(ctx: Any, x: Any, factor: Any, eps: float) -> Any:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        shrink = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = x * shrink
        ctx.save_for_backward(normed, shrink, factor)
        return normed * factor

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        normed, shrink, factor = ctx.saved_tensors
        grad = grad * factor
        along = torch.linalg.vecdot(grad, normed).unsqueeze(-1).div_(-normed.shape[-1])
        return torch.addcmul(grad, normed, along).mul_(shrink), None, None


def _of_norm(module: Any) -> tuple[Any, float] | None:
    """Return factor and epsilon of a norm that divides by the root of the mean square; None: it is another module.

    Models differ in what they keep, the factor (Llama, Qwen) or the factor less one (Gemma): it is tried which it is.
    """
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not type(module).__name__.endswith("RMSNorm") or weight is None or not isinstance(eps, float):
        return None
    if weight.dim() != 1 or weight.requires_grad:
        return None
    x = torch.linspace(-2, 3, 3 * len(weight)).view(3, -1)
    with torch.no_grad():
        own = module(x)
        for factor in (weight.detach().clone(), 1 + weight.detach()):
            if torch.allclose(_norm(factor, eps, x), own, rtol=1e-5, atol=1e-6):
                return factor, eps
    return None
