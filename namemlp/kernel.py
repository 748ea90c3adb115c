"""The compiled part of `namemlp.fused`: SGD updates of the network, with the gradient of each layer written out.

Loops over numbers, no expressions over arrays: those take Numba seconds to compile. All in one file: Numba compiles
anew only what stands in a file that has changed.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

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


@_compiled
def updates(
    units, embedding, hidden_layer, output_layer, x, y, rates, losses, e, h, logits,
    de, dh, dembedding, dhidden_layer, doutput_layer,
):  # fmt: skip
    """The updates of `namemlp.fused.make_updates`, in place; the arrays are those it makes, the second line scratch."""
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
