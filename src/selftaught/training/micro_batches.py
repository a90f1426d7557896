"""The contrast of a whole batch on a device that can hold the activations of only a part of it.

Exact gradient caching (Gao, Zhang, Han, Callan 2021, arXiv 2101.06983): embed part after part
without a graph, compute the loss of the whole and its gradient with respect to every embedding,
then embed each part again and backpropagate those gradients. The cost is one more forward pass.

Each part passes through the network alone, so batch norm uses the statistics of the part (ghost
batch norm, Hoffer, Hubara, Soudry 2017, arXiv 1705.08741). Without batch norm the step equals that
of the whole batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from selftaught.data.batch import Batch
from selftaught.methods.method import Method

Embedded = dict[str, Tensor]
Embed = Callable[[Batch, int], Embedded]
"""Maps a part of a batch and its number to embeddings; the number seeds the random numbers."""


def batch_part(batch: Batch, images: slice) -> Batch:
    """A slice of the images of a batch."""
    return replace(
        batch,
        views=[view[images] for view in batch.views],
        params=[params[images] for params in batch.params],
        rows=batch.rows[images],
        draws=batch.draws[images],
        labels=None if batch.labels is None else batch.labels[images],
    )


def backward(method: Method, batch: Batch, size: int, embed: Embed) -> tuple[Embedded, Tensor]:
    """Accumulate gradients in the parameters, `size` images at a time.

    Each part updates buffers such as running statistics once, in order: they are restored after the
    first pass, and the second pass repeats the updates. The loss sees the buffers as they were
    before the step.

    Returns:
        The embeddings and the loss of the whole batch, without a graph.
    """
    parts = [batch_part(batch, slice(n, n + size)) for n in range(0, len(batch.rows), size)]
    with _buffers_restored(method):
        first = [_detach(embed(one, number)) for number, one in enumerate(parts)]
    embedded = {name: _leaf([one[name] for one in first]) for name in first[0]}
    loss = method.loss(embedded, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: x.grad for name, x in embedded.items() if x.grad is not None}
    for number, one in enumerate(parts):
        own = slice(number * size, (number + 1) * size)
        _backpropagate(embed(one, number), {name: x[own] for name, x in gradients.items()})
    return _detach(embedded), loss.detach()


def _detach(embedded: Embedded) -> Embedded:
    """Drop the graph. (Under no_grad a compiled network might draw other random numbers.)"""
    return {name: x.detach() for name, x in embedded.items()}


def _leaf(parts: Sequence[Tensor]) -> Tensor:
    """All images' embeddings as a leaf that collects gradients."""
    whole = torch.cat(list(parts))
    return whole.requires_grad_(whole.is_floating_point())


def _backpropagate(embedded: Embedded, gradients: Mapping[str, Tensor]) -> None:
    """Send the embeddings' gradients to the parameters; skips embeddings without a graph."""
    names = [name for name in gradients if embedded[name].requires_grad]
    if names:
        tensors, incoming = [embedded[n] for n in names], [gradients[n] for n in names]
        torch.autograd.backward(tensors, incoming)


@contextmanager
def _buffers_restored(method: Method) -> Iterator[None]:
    """A context that restores the method's buffers at its end."""
    before = [buffer.clone() for buffer in method.buffers()]
    yield
    for buffer, values in zip(method.buffers(), before, strict=True):
        buffer.copy_(values)
