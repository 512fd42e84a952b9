"""Flat parameter arenas: one optimizer's parameters, gradients and Adam moments in one fp32 tensor each."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hdfast import ops
from hdfast.ops.dense import Stack

ALIGN = 8  # numbers: every view starts on 16 bytes, in a bfloat16 copy too


class Arena:
    """Adam over a flat arena: global-norm clip, bias-corrected moments (optax semantics), constant learning rate.

    The given parameters become views into `param` and their `.grad` views into `grad`: autograd accumulates there, or
    `backward` writes a gradient there. `step` counts updates on the device, so an update reads nothing back to the
    host. An update whose gradient norm or loss is not finite changes nothing. After `lead` every step also moves a slow
    copy of the parameters.
    With `bf16` every matrix among the parameters has a bfloat16 `shadow`, which products read (hdfast.ops.bf16). Call
    `refresh` after writing parameters from outside.
    Official jaxutils.py, class Optimizer (clip_by_global_norm, then scale_by_adam).
    """

    def __init__(self, params: dict[str, nn.Parameter], *, lr: float, eps: float, clip: float,
                 beta1: float = 0.9, beta2: float = 0.999, bf16: bool = False):
        self.bf16 = bf16
        self.lr, self.eps, self.clip, self.beta1, self.beta2 = lr, eps, clip, beta1, beta2
        self.reduce: Callable[[Tensor], None] | None = None  # averages `grad` over processes, in place
        self.slow: Tensor | None = None
        self.slow_fraction = 1.0
        self.slices, size = {}, 0
        for name, p in params.items():
            self.slices[name] = (size, p.numel(), p.shape)
            size += -(-p.numel() // ALIGN) * ALIGN
        size += ALIGN  # at least one number belongs to no parameter
        device = next(iter(params.values())).device
        self.grad, self.mean, self.var = torch.zeros(3, size, device=device).unbind()
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.named = params
        self.param, = self.lay([params])
        self.params = list(params.values())
        for name, p in params.items():
            p.grad = self.view(self.grad, name)

    def lay(self, sets: list[dict[str, nn.Parameter]]) -> tuple[Tensor, ...]:
        """Move sets of parameters of these names and shapes into one allocation -> the flat part of each."""
        flats = torch.zeros(len(sets), self.grad.numel(), device=self.grad.device)
        copies = flats.bfloat16() if self.bf16 else None
        self.multiplied = flats if copies is None else copies
        self.places = {p: i * self.grad.numel() + self.slices[name][0]
                       for i, params in enumerate(sets) for name, p in params.items()}
        for i, params in enumerate(sets):
            for name, p in params.items():
                view = self.view(flats[i], name)
                view.copy_(p.detach())
                p.data = view
                if self.bf16 and p.ndim > 1:
                    p.shadow = self.view(copies[i], name)
        self.shadows = list(zip(flats, copies, strict=True)) if self.bf16 else []
        self.refresh()
        return flats.unbind()

    def lead(self, params: dict[str, nn.Parameter], fraction: float) -> None:
        """Let parameters of the same names and shapes follow: a copy after the first step, then by `fraction`."""
        (self.param, self.slow), self.slow_fraction = self.lay([self.named, params]), fraction

    def stack(self, *kernels: nn.Parameter) -> Stack:
        """Two or more parameters of one shape as one view of the arena, or of its bfloat16 copy; ValueError if they are
        not at even distances."""
        first, *others = (self.places[kernel] for kernel in kernels)
        step = others[0] - first
        if [first + (i + 1) * step for i in range(len(others))] != others or len({k.shape for k in kernels}) > 1:
            raise ValueError(f"kernels of shapes {[tuple(k.shape) for k in kernels]} at {[first, *others]} make no "
                             "stack; give those of one shape at even distances")
        view = self.multiplied.as_strided((len(kernels), *kernels[0].shape), (step, *kernels[0].stride()), first)
        return Stack(kernels, view)

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the parameters, slow ones too, to their shadows."""
        for flat, copy in self.shadows:
            copy.copy_(flat)

    def view(self, flat: Tensor, name: str) -> Tensor:
        """The part of `flat` (param, grad, mean or var) that belongs to parameter `name`, in its shape."""
        start, size, shape = self.slices[name]
        return flat[start:start + size].view(shape)

    def zero_grad(self) -> None:
        self.grad.zero_()

    def backward(self, loss: Tensor) -> None:
        """Write the gradient of loss () to `grad`, as zero_grad() and loss.backward() do, without zeros and sums.

        The last number of `grad` belongs to no parameter. It becomes 0, or NaN if the loss is not finite: the norm is
        then NaN on every process that averages it, and none takes a step.
        """
        grads = torch.autograd.grad(loss, self.params, allow_unused=True)
        torch.sub(loss.detach(), loss.detach(), out=self.grad[-1])
        flat = [[], []]
        for p, g in zip(self.params, grads, strict=True):
            if g is not None and g.is_contiguous():
                flat[0].append(p.grad.view(-1))
                flat[1].append(g.view(-1))
            else:
                p.grad.zero_() if g is None else p.grad.copy_(g)
        torch._foreach_copy_(*flat)  # few launches, however many parameters

    @torch.no_grad()
    def update(self) -> Tensor:
        """Clip by the global norm, take one Adam step, move the slow copy; returns the norm before clipping, the factor
        of the clip and the steps taken, (3,).

        If the norm is not finite, parameters, moments, step count and slow copy stay as they are.
        """
        if self.reduce:
            self.reduce(self.grad)
        stats = ops.adam_step(self.param, self.grad, self.mean, self.var, self.step, lr=self.lr, eps=self.eps,
                              clip=self.clip, beta1=self.beta1, beta2=self.beta2, slow=self.slow,
                              slow_fraction=self.slow_fraction)
        self.refresh()
        return stats

    def nonfinite_sync(self, flat: Tensor) -> list[str]:
        """Names of the parameters whose part of `flat` (param, grad, mean or var) is not finite; the host waits."""
        fine = torch.stack([self.view(flat, name).isfinite().all() for name in self.slices]).tolist()
        return [name for name, ok in zip(self.slices, fine, strict=True) if not ok]

    def state_dict(self) -> dict[str, Tensor]:
        """Moments by parameter name ('mean/<name>', 'var/<name>') and 'step'."""
        out = {f"{kind}/{name}": self.view(flat, name)
               for kind, flat in (("mean", self.mean), ("var", self.var)) for name in self.slices}
        return out | {"step": self.step}
