"""Have Numba compile what the steps of a run take of the kernel, or load it from disk."""

import logging
from typing import Any

import torch
from numba.core import event

from namemlp import lightning_internals as internals
from namemlp.fast import kernel
from namemlp.fast.closed_form import ClosedForm
from namemlp.fast.sgd import fused_sgd_steps
from namemlp.network import NameMLP


class CompilationMessage(event.Listener):
    """Says once that the kernel is compiled, where Numba does not load it from disk."""

    is_said = False

    def on_start(self, started: Any) -> None:
        if not self.is_said:
            logging.getLogger(__name__).info("compiling the kernel, once on this machine: about 5 s")
        self.is_said = True

    def on_end(self, ended: Any) -> None:
        pass


def prepare(network: NameMLP, closed_form: ClosedForm | None = None) -> None:
    """Make what the kernel has for the SGD steps of a network, or for its gradients in closed form, ready for use."""

    def use() -> None:
        x = torch.zeros(1, 1, network.context_length, dtype=torch.int64)
        if closed_form is None:
            fused_sgd_steps(network, x[:0], x[:0, :, 0], [])
        else:
            closed_form.loss_and_gradients(x[0], x[0, :, 0])

    with event.install_listener("numba:compile", CompilationMessage()):
        try:
            use()
        except Exception:  # a damaged file fails in many ways
            for function in (kernel.sgd_steps, kernel.tanh_and_dropout, kernel.cross_entropy, kernel.sum_by_id):
                internals.flush_kernel_cache(function)
            use()
