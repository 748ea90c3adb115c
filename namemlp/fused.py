"""Many SGD updates of a `NameMLP` in one call, without autograd and without a Python step between them.

The gradient of cross-entropy through linear, tanh, linear and embedding is written out; it is what autograd computes.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from namemlp.network import NameMLP

# NaN and infinity are kept (no nnan, no ninf): a run that diverges must look as it does in the textbook path.
OPTIONS = dict(fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy", nogil=True)


def _compiled(function: Callable) -> Any:
    """To be called from Python; the machine code is kept on disk, where there is a folder for it."""
    try:
        return numba.njit(function, cache=True, **OPTIONS)
    except RuntimeError:
        return numba.njit(function, **OPTIONS)


def _inlined(function: Callable) -> Any:
    """To be called from compiled code only, which saves a tenth of the time to compile.

    Always inlined: else what has just been compiled and what is loaded from disk may call two versions of a function,
    whose roundings differ, and a run that is resumed would not be bit-identical.
    """
    return numba.njit(function, forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)


def prepare(network: NameMLP) -> None:
    """Compile what `make_updates` needs for a network, or load it from disk."""
    nothing = torch.zeros(0, 1, 1, dtype=torch.int64)
    try:
        make_updates(network, nothing, nothing[..., 0], [])
    except Exception:  # a damaged file fails in many ways
        _updates._cache.flush()
        make_updates(network, nothing, nothing[..., 0], [])


@torch.no_grad()
def make_updates(network: NameMLP, x: Tensor, y: Tensor, rates: list[float]) -> Tensor:
    """Make K updates in place, each with its own mini-batch and learning rate.

    Args:
        network: float32 or float64, on the CPU.
        x: (K, B, T) contexts.
        y: (K, B) next characters.
        rates: K learning rates.

    Returns:
        The K losses before each update, (K,) float64.

    Raises:
        IndexError: an id is not in the vocabulary.
    """
    hidden, output = network.hidden, network.output
    embedding = network.embedding.weight.detach().clone(memory_format=torch.contiguous_format)  # (V, C)
    size, inputs, units, batch = len(embedding), hidden.in_features, hidden.out_features, x.shape[1]
    if len(x) and (min(x.min(), y.min()) < 0 or max(x.max(), y.max()) >= size):
        raise IndexError("index out of range: a character is not in the model's vocabulary")

    # Rows run along the hidden units, aligned to 64 bytes, in numbers that the tiles of the products divide.
    def padded(rows: int, columns: int) -> Tensor:
        return embedding.new_zeros(-(-rows // 4) * 4, -(-columns // 16) * 16)

    # A bias is one more row (of the hidden layer) or column (of the output layer), for an input that is always 1.
    hidden_layer = padded(inputs + 1, units + 1)  # (T * C + 1, H + 1)
    output_layer = padded(size, units + 1)  # (V, H + 1)
    copies = {
        network.embedding.weight: embedding,
        hidden.weight: hidden_layer[:inputs, :units].T,
        hidden.bias: hidden_layer[inputs, :units],
        output.weight: output_layer[:size, :units],
        output.bias: output_layer[:size, units],
    }
    for weight, copy in copies.items():
        copy.copy_(weight)
    e = padded(batch, inputs + 1)  # (B, T * C + 1)
    e[:batch, inputs] = 1
    h = padded(batch, units + 1)  # (B, H + 1)
    logits = padded(batch, size)  # (B, V)
    losses = torch.empty(len(x), dtype=torch.float64)
    changes = [torch.empty_like(each) for each in (e, h, embedding, hidden_layer, output_layer)]
    arrays = (embedding, hidden_layer, output_layer, x, y, embedding.new_tensor(rates), losses, e, h, logits, *changes)
    _updates(units, *(array.contiguous().numpy() for array in arrays))
    for weight, copy in copies.items():
        weight.copy_(copy)
    return losses


# The rest is compiled. Loops over numbers, no expressions over arrays: those take Numba seconds to compile.


@_compiled
def _updates(
    units, embedding, hidden_layer, output_layer, x, y, rates, losses, e, h, logits,
    de, dh, dembedding, dhidden_layer, doutput_layer,
):  # fmt: skip
    dim = embedding.shape[1]
    steps, batch, context = x.shape
    for step in range(steps):
        for i in range(batch):
            for t in range(context):
                for d in range(dim):
                    e[i, t * dim + d] = embedding[x[step, i, t], d]
        _product(h, e, hidden_layer)
        _tanh(h)
        for i in range(batch):
            h[i, units] = 1
            h[i, units + 1 :].fill(0)  # as what is beyond the batch below: 0 already, but where a weight is infinite
        for i in range(batch, len(h)):
            h[i].fill(0)
        _dots(logits, h, output_layer)
        losses[step] = _softmax(logits, len(embedding), y[step], rates[step] / logits.dtype.type(batch)) / batch

        # From here on not gradients, but what the update adds: the gradient times minus the learning rate.
        _product(dh, logits, output_layer)
        for i in range(batch):
            for j in range(dh.shape[1]):
                dh[i, j] *= 1 - h[i, j] * h[i, j]
            dh[i, units:].fill(0)
        for i in range(batch, len(dh)):
            dh[i].fill(0)
        _dots(de, dh, hidden_layer)
        dembedding.fill(0)
        for i in range(batch):
            for t in range(context):
                for d in range(dim):
                    dembedding[x[step, i, t], d] += de[i, t * dim + d]
        _product(doutput_layer, logits.T, h)
        _product(dhidden_layer, e.T, dh)

        # Summed over the batch before they are added: one by one, what is small beside a weight would be lost.
        _add(embedding, dembedding)
        _add(hidden_layer, dhidden_layer)
        _add(output_layer, doutput_layer)


@_inlined
def _product(out, c, b):
    """out[i] = sum over k of c[i, k] * b[k], two rows of out and four of b at a time."""
    for i in range(0, len(out), 2):
        out0, out1 = out[i], out[i + 1]
        out0.fill(0)
        out1.fill(0)
        for k in range(0, len(b), 4):
            b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
            c00, c01, c02, c03 = c[i, k], c[i, k + 1], c[i, k + 2], c[i, k + 3]
            c10, c11, c12, c13 = c[i + 1, k], c[i + 1, k + 1], c[i + 1, k + 2], c[i + 1, k + 3]
            for j in range(len(out0)):
                out0[j] += c00 * b0[j] + c01 * b1[j] + c02 * b2[j] + c03 * b3[j]
                out1[j] += c10 * b0[j] + c11 * b1[j] + c12 * b2[j] + c13 * b3[j]


@_inlined
def _dots(out, a, b):
    """out[i, k] = the inner product of a[i] and b[k], two rows of a and four of b at a time."""
    zero = out.dtype.type(0)
    for i in range(0, len(a), 2):
        a0, a1 = a[i], a[i + 1]
        for k in range(0, len(b), 4):
            b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = zero
            for j in range(len(a0)):
                s00 += a0[j] * b0[j]
                s01 += a0[j] * b1[j]
                s02 += a0[j] * b2[j]
                s03 += a0[j] * b3[j]
                s10 += a1[j] * b0[j]
                s11 += a1[j] * b1[j]
                s12 += a1[j] * b2[j]
                s13 += a1[j] * b3[j]
            out[i, k], out[i, k + 1], out[i, k + 2], out[i, k + 3] = s00, s01, s02, s03
            out[i + 1, k], out[i + 1, k + 1], out[i + 1, k + 2], out[i + 1, k + 3] = s10, s11, s12, s13


@_inlined
def _add(out, more):
    for i in range(len(out)):
        for j in range(out.shape[1]):
            out[i, j] += more[i, j]


@_inlined
def _softmax(logits, size, y, scale):
    """The sum of the losses; logits become minus scale times their gradient, and zero in the rows beyond those of y."""
    total = 0.0
    for i in range(len(y)):
        row = logits[i, :size]
        largest = row[0]
        for v in range(size):
            largest = max(largest, row[v])
        total += largest - row[y[i]]
        for v in range(size):
            row[v] -= largest
        _exp(row)
        sum_exp = row.dtype.type(0)
        for v in range(size):
            sum_exp += row[v]
        total += math.log(sum_exp)
        for v in range(size):
            row[v] *= -scale / sum_exp
        row[y[i]] += scale
    for i in range(len(y), len(logits)):
        logits[i].fill(0)
    return total


@_inlined
def _exp(row):
    """Of numbers up to 0, in place."""
    if row.itemsize == 8:
        for v in range(len(row)):
            row[v] = math.exp(row[v])
        return
    # float32: the 128th power of exp(x / 128), a short series, worked out in float64; below -104 it rounds to 0.
    for v in range(len(row)):
        t = max(np.float64(row[v]), -104.0) / 128
        p = 1 + t * (1 + t / 2 * (1 + t / 3 * (1 + t / 4 * (1 + t / 5 * (1 + t / 6 * (1 + t / 7))))))
        for _ in range(7):
            p *= p
        row[v] = p


@_inlined
def _tanh(h):
    """Of a matrix, in place."""
    # float32: x * P(x²) / Q(x²), fitted to 7e-9 relative; at 9.01 tanh rounds to 1. Rounding makes it 3.2e-7 at most.
    limit = np.float32(9.01)
    for i in range(len(h)):
        row = h[i]
        if h.itemsize == 8:
            for j in range(len(row)):
                row[j] = math.tanh(row[j])
            continue
        for j in range(len(row)):
            x = min(max(row[j], -limit), limit)
            u = x * x
            p = np.float32(-8.46232649e-14)
            p = p * u + np.float32(5.26784929e-11)
            p = p * u + np.float32(-2.02045749e-08)
            p = p * u + np.float32(1.11492778e-05)
            p = p * u + np.float32(0.00310347839)
            p = p * u + np.float32(0.130835831)
            p = p * u + np.float32(0.999999993)
            q = np.float32(0.000254544762)
            q = q * u + np.float32(0.0244932782)
            q = q * u + np.float32(0.464169102)
            q = q * u + np.float32(1)
            row[j] = x * p / q
