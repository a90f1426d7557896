"""Labels of positions, propagated from the most similar positions of other maps.

Position q takes its label y from the k positions p with the most similar f, among the positions of
n other maps within a square of radius r around it (Jabri, Owens, Efros 2020; Caron et al. 2021):

    y_q = sum_p w_p y_p        w = softmax_p( cos(f_q, f_p) / tau )

The computation goes tile by tile: multiplying a tile of positions with all positions near the tile
computes few unneeded products, and keeps the matrix small.

Shapes:  h, w of a map, D numbers per position; n other maps; O labels; Q positions of a tile,
         K positions near it, P = n K of all maps.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_TILE = {"cpu": 8, "cuda": 32}  # positions per side; on one core 4 and 16 are slower


def propagate(
    map_Dhw: Tensor,
    maps_nDhw: Tensor,
    labels_nOhw: Tensor,
    *,
    top: int,
    radius: int,
    temperature: float,
) -> Tensor:
    """The label of every position, (O, h, w).

    Args:
        map_Dhw: f of the map, of unit length at each position.
        maps_nDhw: f of the other maps, also of unit length.
        labels_nOhw: Labels of the other maps.
        top: k; all near positions if there are fewer.
        radius: r.
        temperature: tau.
    """
    h, w = map_Dhw.shape[1:]
    out_Ohw = labels_nOhw.new_empty(labels_nOhw.shape[1:])
    side = _TILE["cpu" if map_Dhw.device.type == "cpu" else "cuda"]
    for rows in _tile_slices(h, side):
        for columns in _tile_slices(w, side):
            tile_DQ = map_Dhw[:, rows, columns].flatten(1)
            near = ..., _widen(rows, radius, h), _widen(columns, radius, w)
            far_QK = _outside_radius((rows, columns), near[1:], radius).to(map_Dhw.device)
            cosine_nQK = tile_DQ.T @ maps_nDhw[near].flatten(2)
            cosine_QP = cosine_nQK.masked_fill_(far_QK, -torch.inf).transpose(0, 1).flatten(1)
            best = cosine_QP.topk(min(top, cosine_QP.shape[1]))
            weight_Qk = (best.values / temperature).softmax(dim=1)
            label_OP = labels_nOhw[near].transpose(0, 1).flatten(1)
            label_OQ = (label_OP[:, best.indices] * weight_Qk).sum(dim=2)
            out_Ohw[:, rows, columns] = label_OQ.view_as(out_Ohw[:, rows, columns])
    return out_Ohw


def _tile_slices(length: int, side: int) -> Iterator[slice]:
    return (slice(start, min(start + side, length)) for start in range(0, length, side))


def _widen(part: slice, radius: int, length: int) -> slice:
    return slice(max(0, part.start - radius), min(length, part.stop + radius))


def _outside_radius(tile: tuple[slice, slice], near: tuple[slice, slice], radius: int) -> Tensor:
    """Mask of the positions K outside the square around each position Q of a tile, (Q, K)."""
    far_y, far_x = (
        (torch.arange(one.start, one.stop)[:, None] - torch.arange(others.start, others.stop)).abs()
        > radius
        for one, others in zip(tile, near, strict=True)
    )
    return (far_y[:, None, :, None] | far_x[None, :, None, :]).flatten(2).flatten(0, 1)
