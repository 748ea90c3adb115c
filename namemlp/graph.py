"""Many SGD updates of a `NameMLP` on a GPU: a few of them are captured as a CUDA graph, which is replayed."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from namemlp.network import NameMLP


class GraphUpdates:
    """Makes K updates in place, each with its own mini-batch and learning rate, without waiting for the GPU.

    Args:
        network: on a GPU.
        batch_size: B.
        longest: K at most.
    """

    CAPTURED = 20  # updates in a graph; what is left of a block is made one by one

    def __init__(self, network: NameMLP, batch_size: int, longest: int) -> None:
        self.network, self.parameters = network, list(network.parameters())
        weight = network.hidden.weight
        context = weight.shape[1] // network.embedding.embedding_dim
        self.x = torch.zeros(longest, batch_size, context, dtype=torch.int64, device=weight.device)
        self.y = torch.zeros(longest, batch_size, dtype=torch.int64, device=weight.device)
        self.rates = weight.new_zeros(longest)
        self.losses = weight.new_zeros(longest)
        self.place = torch.zeros(1, dtype=torch.int64, device=weight.device)  # of the next update in these
        self.make_many, self.make_one = self._capture(min(self.CAPTURED, longest)), self._capture(1)

    def __call__(self, x: Tensor, y: Tensor, rates: list[float]) -> Tensor:
        """Args: (K, B, T) contexts, (K, B) next characters, K learning rates. Returns the K losses, (K,)."""
        count, rates = len(x), self.rates.new_tensor(rates)
        if y.shape[1] != self.y.shape[1]:  # the last, smaller batch of an epoch
            return torch.stack([self._update(*step) for step in zip(x, y, rates, strict=True)])
        self.x[:count], self.y[:count], self.rates[:count] = x, y, rates
        self.place.zero_()
        many, rest = divmod(count, self.CAPTURED)
        for _ in range(many):
            self.make_many()
        for _ in range(rest):
            self.make_one()
        return self.losses[:count].clone()

    def _update(self, x: Tensor, y: Tensor, rate: Tensor) -> Tensor:  # (B, T), (B,), ()
        with torch.enable_grad():
            loss = F.cross_entropy(self.network(x), y)
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            torch._foreach_add_(self.parameters, torch._foreach_mul(gradients, -rate))
        return loss.detach()

    def _updates(self, count: int) -> None:
        """The next updates out of x, y and rates, with nothing in it that depends on where these are."""
        for _ in range(count):
            x, y, rate = (each.index_select(0, self.place)[0] for each in (self.x, self.y, self.rates))
            self.losses.index_copy_(0, self.place, self._update(x, y, rate)[None])
            self.place += 1

    def _capture(self, count: int) -> Callable[[], None]:
        # Warmed up as torch.cuda.graph asks for, at rates of 0, which leave the weights as they are.
        self.place.zero_()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._updates(min(3, len(self.x)))
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._updates(count)
        return graph.replay
