"""New names out of a network, many at a time, and the log-probability of a name."""

import copy
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from namemlp.corpus import MAX_NAME_LENGTH, are_known, encode_names
from namemlp.errors import UserError, check_range, shorten
from namemlp.network import eval_mode
from namemlp.vocabulary import NUL, Vocabulary, code_points
from namemlp.windows import ContextDataset

Sums = Callable[[Tensor], Tensor]  # (B, T) contexts -> (B, V)
MAX_TABLE_SIZE, MAX_BATCH_SIZE = 2**24, 2**21  # probabilities, and numbers that are worked on at once
MAX_NAMES, MAX_REJECTIONS = 10**8, 100_000  # rejections: draws in a row that bring no name


def sample_names(
    network: nn.Module,
    vocabulary: Vocabulary,
    context_length: int,
    num_names: int = 20,
    prefix: str = "",
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
    max_length: int = 100,
    novel: bool = False,
    unique: bool = False,
    training_names: Sequence[int] = (),
    accept: Callable[[list[str]], Sequence[bool]] | None = None,
) -> list[str]:
    """Draw names from a network, (B, T) ids -> (B, V) logits. (None is empty: a name has at least one character.)

    Args:
        num_names: number of names
        prefix: common prefix
        temperature: below 1 makes likely characters likelier, above 1 less so
        top_k: sample only from the k likeliest characters; null: from all
        seed: gives the same names again, and the first of them where fewer are asked for; null: new ones each time
        max_length: characters; a name that has not ended by then is cut off there
        novel: drop names of the list that the model was trained on, validation and test included
        unique: drop repeated names
        training_names: `hash_names` of that list, sorted
        accept: says for each name of a batch whether it is wanted, such as `namemlp.lists.Constraints`; null: all are

    Raises: UserError: a number is out of range, the prefix has unknown characters, or there are not as many names.
    """
    check_range(1, num_names=num_names, top_k=top_k, max_length=max_length)
    if num_names > MAX_NAMES:
        raise UserError(f"num_names is {num_names:,}: at most {MAX_NAMES:,} are held at once, use several seeds")
    if not 0 < temperature < torch.inf:
        raise UserError(f"temperature is {temperature}: it must be above 0; top_k 1 takes the likeliest character")
    check_range(0, 2**64, "from 0 to 2**64 - 1", seed=seed)
    if not len(prefix) <= max_length <= MAX_NAME_LENGTH:
        minimum = f"{len(prefix)}, as long as the prefix," if prefix else "1"
        raise UserError(f"max_length is {max_length}: it must be from {minimum} to {MAX_NAME_LENGTH:,}")
    if novel and not len(training_names):
        raise UserError("novel: it is not known which names this model was trained on; omit it")
    seed = torch.randint(2**62, ()).item() if seed is None else seed
    try:
        prefix_ids = torch.from_numpy(encode_names([prefix], vocabulary, f"prefix {shorten(repr(prefix))}")[:-1])
    except UserError as error:
        raise UserError(f"{error}; it knows {shorten(str(vocabulary)[1:])}") from None
    sums = running_sums(network, len(vocabulary), context_length, temperature, top_k)
    names, seen, drawn, last_hit = [], set(), 0, 0
    batch_size, max_batch_size = num_names, max(4, MAX_BATCH_SIZE // max(len(vocabulary), max_length))
    while len(names) < num_names:
        batch_size = -(-min(batch_size, max_batch_size) // 4) * 4  # a multiple of 4, as `draw` needs it
        ids = draw(sums, context_length, prefix_ids, seed, drawn, batch_size, max_length)  # zeros behind each name
        codes = code_points(NUL + vocabulary.characters[1:]).take(ids)  # (batch_size, L)
        batch = codes.view(f"U{codes.shape[1]}")[:, 0].tolist()
        if novel:
            batch = list(itertools.compress(batch, ~are_known(batch, training_names)))
        if accept is not None:
            batch = list(itertools.compress(batch, accept(batch)))
        if unique:
            batch = [name for name in dict.fromkeys(batch) if name not in seen]
            seen.update(batch)
        names += batch
        drawn += batch_size
        last_hit = drawn if batch else last_hit
        if drawn - last_hit >= MAX_REJECTIONS:
            way_out = "ask for fewer" if accept is None else "ask for fewer, or for less"
            way_out = "with top_k 1 all are the same: give a larger one" if top_k == 1 else way_out
            raise UserError(f"only {len(names):,} such names came in {drawn:,} draws: {way_out}")
        batch_size = max(num_names - len(names), 2 * batch_size if novel or unique or accept else 0)
    return names[:num_names]


def running_sums(network: nn.Module, size: int, T: int, temperature: float, top_k: int | None) -> Sums:
    """What gives the running sums of the probabilities of the next character."""
    # In 64 bits on the CPU, so that a name is the same on any device; for few contexts from a table.
    if not all(weights.isfinite().all() for weights in network.parameters()):
        raise UserError("the model's weights are not finite, so that it gives no names: give another checkpoint")
    network = copy.deepcopy(network).to("cpu", torch.float64).eval()

    @torch.inference_mode()
    def compute(contexts: Tensor) -> Tensor:
        logits = torch.cat([network(part) for part in contexts.split(2048)])
        logits[(contexts == 0).all(1), 0] = -torch.inf  # a name has at least one character
        if top_k is not None and top_k < size:
            top = logits.topk(top_k).indices
            logits = torch.full_like(logits, -torch.inf).scatter(1, top, logits.gather(1, top))
        if temperature != 1:  # less their maximum, so that none becomes infinite
            logits = (logits - logits.amax(1, keepdim=True)) / temperature
        sums = logits.softmax(1).cumsum(1)
        return sums / sums[:, -1:]  # exactly 1 in the end

    if size**T > MAX_TABLE_SIZE // size:
        return compute
    strides = size ** torch.arange(T)  # a context's row in the table is a number with T digits
    table, is_filled = torch.empty(size**T, size, dtype=torch.float64), torch.zeros(size**T, dtype=torch.bool)

    def look_up(contexts: Tensor) -> Tensor:  # fills the rows that are looked up for the first time
        rows = (contexts * strides).sum(1)  # (B,)
        if not (is_known := is_filled.index_select(0, rows)).all():
            new = rows[~is_known].unique()
            table[new], is_filled[new] = compute(new[:, None] // strides % size), True
        return table.index_select(0, rows)

    return look_up


def draw(sums: Sums, T: int, prefix: Tensor, seed: int, first: int, count: int, max_length: int) -> Tensor:
    """Names number `first` to `first + count - 1` of a seed's, (count, L) ids with zeros behind each."""
    length = len(prefix)
    names = torch.zeros(count, T + max_length, dtype=torch.int32)  # after T zeros
    names[:, T : T + length] = prefix
    active = torch.arange(count)  # finished names leave the batch
    for t in range(len(prefix), max_length):
        contexts = names[:, t : t + T].index_select(0, active).long()  # (B, T)
        # A function of seed, position and number alone; the generator makes four numbers at a time.
        generator = np.random.Generator(np.random.Philox(key=np.array([seed, t], np.uint64), counter=first // 4))
        uniform = torch.from_numpy(generator.random(count)).index_select(0, active)  # (B,)
        drawn = torch.searchsorted(sums(contexts), uniform[:, None], right=True)[:, 0]
        unfinished = drawn.nonzero()[:, 0]
        if not len(unfinished):
            break
        active = active.index_select(0, unfinished)
        names[active, T + t] = drawn.index_select(0, unfinished).int()
        length = t + 1
    return names[:, T : T + length]


def log_prob(module: nn.Module, vocabulary: Vocabulary, context_length: int, names: Sequence[str]) -> Tensor:
    """The log-probability of each name with its end, in nats, (names,) float64. Raises: UserError."""
    if isinstance(names, str):
        raise UserError(f"names is the string {shorten(repr(names))}: give a list of names")
    if not names:
        return torch.zeros(0, dtype=torch.float64)
    try:
        examples = ContextDataset(encode_names(names, vocabulary, "the list"), context_length)
    except UserError:
        for name in names:
            encode_names([name], vocabulary, shorten(repr(name)))  # its error shows the one name
        raise
    device = next(module.parameters()).device
    with eval_mode(module):
        batches = [examples[start : start + 2048] for start in range(0, len(examples), 2048)]
        parts = [-F.cross_entropy(module(x.to(device)).float(), y.to(device), reduction="none") for x, y in batches]
    return sum_per_name(torch.cat(parts).cpu(), names)


def sum_per_name(log_probs: Tensor, names: Sequence[str]) -> Tensor:  # (examples,) -> (names,) float64
    lengths = torch.tensor([len(name) + 1 for name in names])
    return torch.segment_reduce(log_probs.double(), "sum", lengths=lengths)
