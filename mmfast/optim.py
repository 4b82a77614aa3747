"""Adam for parameters whose gradient is dense and for tables whose gradient touches a few rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops.adam_rows import adam_rows_


class Adam(torch.optim.Adam):
    """torch.optim.Adam, fused, that takes row-sparse gradients too and makes the very same step of them.

    A gradient is row-sparse where the parameter is a table [N, F] read by `F.embedding(rows, table, sparse=True)`.
    Every row still decays and moves, as with a dense gradient of zeros elsewhere; only that gradient is never made.
    Ids that are sorted and unique, as from `compact_ids`, save the sorting of the gradient. weight_decay is the coupled
    one. Parameters without a gradient are left alone. The state is that of torch.optim.Adam and loads into it.

    Example: `optimizer = Adam(model.parameters(), lr=1e-3)`
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)

    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Make one step of every parameter that has a gradient; return the closure's loss if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse = []  # set aside, for torch's step refuses them
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None and param.grad.is_sparse:
                    self._step_rows(group, param)
                    sparse.append((param, param.grad))
                    param.grad = None
        try:
            super().step()
        finally:
            for param, grad in sparse:
                param.grad = grad
        return loss

    def _step_rows(self, group: dict[str, Any], param: torch.Tensor) -> None:
        if group["amsgrad"] or group["maximize"] or param.grad.sparse_dim() != 1:
            raise MmfastError(
                "Adam: a row-sparse gradient needs amsgrad=False, maximize=False and one sparse dimension (the rows); "
                f"got amsgrad={group['amsgrad']}, maximize={group['maximize']}, {param.grad.sparse_dim()} of them"
            )
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        state["step"] += 1
        rows, grad = _sorted_rows(param.grad)
        beta1, beta2 = group["betas"]
        adam_rows_(
            param,
            state["exp_avg"],
            state["exp_avg_sq"],
            rows,
            grad,
            lr=float(group["lr"]),
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            step=int(state["step"].item()),
        )


def _sorted_rows(grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (rows, values) of a row-sparse gradient, rows sorted and unique; sorts only where they are not."""
    rows = grad._indices()[0]
    if not bool((rows.diff() > 0).all()):
        grad = grad.coalesce()
    return grad._indices()[0], grad._values()
