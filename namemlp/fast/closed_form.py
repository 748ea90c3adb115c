"""The loss of a plain `NameMLP` on a CPU with its gradients written out: a few large calls in the place of autograd.

Products of matrices are torch's, what stands between them is compiled. To autograd it is one function, so that hooks,
clipping, optimizers and several processes work with it as with any other.
"""

from typing import Any

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.optim import Optimizer

from namemlp import lightning_internals as internals
from namemlp.fast.support import overridden_method
from namemlp.module import NameModule
from namemlp.network import NameMLP, check_context_length


def why_not_closed_form(trainer: Trainer) -> str | None:
    """Why the gradients need autograd, or None: they are those of an unmodified `NameMLP` on a CPU."""
    module, network = trainer.lightning_module, trainer.lightning_module.network
    overridden, dtype = overridden_method(module, NameModule, ("forward", "loss")), module.dtype
    reasons = {
        f"{type(module).__name__} overrides {overridden}": overridden,
        "the module or a parameter has hooks": internals.has_hooks(module),
        f"the weights are {str(dtype).removeprefix('torch.')}": dtype not in (torch.float32, torch.float64),
        "the network is not a plain NameMLP": not is_unmodified(network),
        f"the device is {module.device.type}": module.device.type != "cpu",
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def is_unmodified(network: nn.Module) -> bool:  # whether it is a `NameMLP` as it was built
    modules, parameters = list(network.modules()), list(network.parameters())
    is_changed = any("forward" in vars(module) or internals.is_compiled(module) for module in modules)
    if is_changed or [type(module) for module in modules] != [NameMLP, nn.Embedding, nn.Linear, nn.Linear]:
        return False
    embedding, hidden, output = modules[1:]
    if embedding.padding_idx is not None or embedding.max_norm or embedding.scale_grad_by_freq or embedding.sparse:
        return False
    V, C, H, T = output.out_features, embedding.embedding_dim, hidden.out_features, network.context_length
    is_one_dtype = {p.dtype for p in parameters} in ({torch.float32}, {torch.float64})
    return is_one_dtype and [tuple(p.shape) for p in parameters] == [(V, C), (H, T * C), (H,), (V, H), (V,)]


def use_fused_step(optimizer: Optimizer) -> None:
    """Have SGD, Adam or AdamW make their step in a single call of torch, unless they were told how to make it."""
    is_known = type(optimizer) in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
    for group in optimizer.param_groups if is_known else ():
        is_told = group["foreach"] or group["differentiable"] or group.get("capturable")
        if group["fused"] is None and not is_told and all(p.is_contiguous() for p in group["params"]):
            group["fused"] = True


class ClosedForm:
    """The mean cross-entropy of (B, T) contexts and (B,) next characters, and its gradients.

    Which tanh units are left out is a function of the seed, the step, which each call increases, and the process. The
    probability of it is rounded to 1/65,536.
    """

    def __init__(self, network: NameMLP, seed: int, step: int, process: int) -> None:
        self.network, self.seed, self.step, self.process = network, seed, step, process
        self.threshold = round(network.dropout * 2**16)
        self.h = self.slope = self.dz = torch.empty(0, 0)  # kept: new memory for each step would take longer

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:  # in the place of `NameModule.loss`
        return CrossEntropy.apply(self, x, y, *self.network.parameters())

    @torch.no_grad()
    def backward(self, x: Tensor, y: Tensor) -> Tensor:  # the loss; sets the gradients of what is trained
        loss, gradients = self.loss_and_gradients(x, y)
        for p, gradient in zip(self.network.parameters(), gradients, strict=True):
            p.grad = gradient if p.requires_grad else None
        return loss

    def loss_and_gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        from namemlp.fast.kernel import cross_entropy, sum_by_id, tanh_and_dropout  # Numba takes half a second

        check_context_length(x, self.network.context_length)
        embedding, hidden, hidden_bias, output, output_bias = (p.detach() for p in self.network.parameters())
        if len(self.h) != len(x):
            self.h, self.slope, self.dz = hidden.new_empty(3, len(x), len(hidden))  # (B, H) each
        h, slope, dz, bits = self.h, self.slope, self.dz, np.zeros(0, np.uint16)
        if self.threshold:
            generator = np.random.SFC64((self.seed, self.step, self.process))
            bits = generator.random_raw(-(-h.numel() // 4)).view(np.uint16)[: h.numel()]
        self.step += 1

        e = F.embedding(x, embedding).flatten(1)  # (B, T, C) -> (B, T * C)
        torch.addmm(hidden_bias, e, hidden.T, out=h)
        tanh_and_dropout(h.numpy(), slope.numpy(), bits, self.threshold)
        logits = torch.addmm(output_bias[:, None], output, h.T)  # (V, B)
        loss = cross_entropy(logits.numpy(), y.contiguous().numpy(), logits.new_empty(2, len(y)).numpy())
        if loss == -1:
            raise IndexError(f"the data has characters beyond the model's vocabulary of {len(logits)}")
        dlogits = logits  # as `cross_entropy` has left them
        torch.mm(dlogits.T, output, out=dz).mul_(slope)
        de = (dz @ hidden).view(-1, embedding.shape[1])  # (B * T, C)
        dembedding = embedding.new_zeros(embedding.shape)
        sum_by_id(dembedding.numpy(), x.flatten().numpy(), de.numpy())
        gradients = [dembedding, dz.T @ e, dz.sum(0), dlogits @ h, dlogits.sum(1)]
        return torch.tensor(loss, dtype=h.dtype), gradients


class CrossEntropy(torch.autograd.Function):
    """The loss of a `ClosedForm` as a function of the parameters; its gradients are made with it."""

    @staticmethod
    def forward(ctx: Any, closed_form: ClosedForm, x: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
        loss, ctx.gradients = closed_form.loss_and_gradients(x, y)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(gradient * grad for gradient in ctx.gradients)
