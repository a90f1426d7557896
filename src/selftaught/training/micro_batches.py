"""The contrast of a whole batch on a device that holds the activations of a part of it only.

Exact gradient caching (Gao, Zhang, Han, Callan 2021, arXiv 2101.06983): embed part after part and
forget how, take the loss of the whole and its gradient by every embedding, then embed each part
once more and send those gradients through it. The price is one more forward pass.

Each part passes the network by itself, so that batch norm has the statistics of the part (ghost
batch norm, Hoffer, Hubara, Soudry 2017, arXiv 1705.08741). Without batch norm the step is that of
the whole batch.
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
"""A part of a batch and its number to embeddings; equal numbers, equal random numbers."""


def batch_part(batch: Batch, images: slice) -> Batch:
    """Some images of a batch."""
    return replace(
        batch,
        views=[view[images] for view in batch.views],
        params=[params[images] for params in batch.params],
        rows=batch.rows[images],
        draws=batch.draws[images],
        labels=None if batch.labels is None else batch.labels[images],
    )


def backward(method: Method, batch: Batch, size: int, embed: Embed) -> tuple[Embedded, Tensor]:
    """Gradients into the parameters, from `size` images at a time.

    Buffers that `embed` changes, such as running statistics, are changed once by each part, in
    order: what the first pass did to them is taken back before the loss, so that the second pass
    repeats it. The loss sees them as they were before the step.

    Returns:
        What `embed` and `loss` of the method say of the whole batch, without a graph.
    """
    parts = [batch_part(batch, slice(n, n + size)) for n in range(0, len(batch.rows), size)]
    with _taken_back(method):
        first = [_detached(embed(one, number)) for number, one in enumerate(parts)]
    embedded = {name: _leaf([one[name] for one in first]) for name in first[0]}
    loss = method.loss(embedded, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: x.grad for name, x in embedded.items() if x.grad is not None}
    for number, one in enumerate(parts):
        own = slice(number * size, (number + 1) * size)
        _send(embed(one, number), {name: x[own] for name, x in gradients.items()})
    return _detached(embedded), loss.detach()


def _detached(embedded: Embedded) -> Embedded:
    """Without the graph. Under no_grad a compiled network might draw other random numbers."""
    return {name: x.detach() for name, x in embedded.items()}


def _leaf(parts: Sequence[Tensor]) -> Tensor:
    """All images' embeddings, where gradients shall arrive."""
    whole = torch.cat(list(parts))
    return whole.requires_grad_(whole.is_floating_point())


def _send(embedded: Embedded, gradients: Mapping[str, Tensor]) -> None:
    """Gradients of embeddings into the parameters that made them; some are made by none."""
    names = [name for name in gradients if embedded[name].requires_grad]
    if names:
        tensors, incoming = [embedded[n] for n in names], [gradients[n] for n in names]
        torch.autograd.backward(tensors, incoming)


@contextmanager
def _taken_back(method: Method) -> Iterator[None]:
    """Afterwards the buffers hold what they held before."""
    before = [buffer.clone() for buffer in method.buffers()]
    yield
    for buffer, values in zip(method.buffers(), before, strict=True):
        buffer.copy_(values)
