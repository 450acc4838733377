"""Spiking populations: neurons with a state, which is carried along the time axis and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from edgepep.errors import EdgepepError
from edgepep.neurons.surrogate import arctangent

State = tuple[Tensor, ...]
_BLOCK = 32  # most steps that a compiled scan unrolls


class Spiking(nn.Module):
    """Base of spiking populations, with snnTorch's parameters: a subclass writes `advance`, one step of time.

    A call runs over the time axis from rest; no state is kept between calls. Without autograd nothing but the spikes
    and one state is held; with autograd spikes have a surrogate derivative, so that backpropagation through time is
    snnTorch's; under torch.export the scan becomes one operator.

    A parameter may be a number, or a tensor that broadcasts over [batch, ...]: one value a neuron. Learned ones are
    trained by the rules that carry an error back through the neurons, by their exact gradient, and rest under others.

    Args:
        threshold: potential above which a neuron fires, > 0.
        learn_threshold: whether it learns.
        reset_mechanism: after a spike the potential loses the threshold ("subtract"), all ("zero") or nothing ("none").
        reset_delay: reset in the step after the spike, else in the same step.
        inhibition: of the neurons above the threshold only the one with the highest potential fires.
        graded_spikes_factor: height of a spike.
        spike_grad: surrogate from snntorch.surrogate; else its arctangent (Fang et al. 2021).
        compiled: scan by torch.compile: faster after some seconds of compiling, and one kernel a block on a GPU.

    Raises:
        EdgepepError: if a value is out of range.

    """

    states = 1
    """Number of tensors in a state."""
    threshold: float | Tensor
    graded_spikes_factor: float | Tensor

    def __init__(
        self,
        threshold: float | Tensor = 1.0,
        *,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        reset_delay: bool = True,
        inhibition: bool = False,
        graded_spikes_factor: float | Tensor = 1.0,
        spike_grad: Callable[[Tensor], Tensor] | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        if reset_mechanism not in ("subtract", "zero", "none"):
            raise EdgepepError(f"reset_mechanism is {reset_mechanism!r}; it must be one of 'subtract', 'zero', 'none'.")
        self.hold("threshold", threshold, 0.0, math.inf, learn_threshold, above=True)
        self.hold("graded_spikes_factor", graded_spikes_factor, -math.inf, math.inf)
        self.reset_mechanism, self.reset_delay, self.inhibition = reset_mechanism, reset_delay, inhibition
        self.spike_grad, self.compiled = spike_grad, compiled
        self.gradients: dict[nn.Parameter, Tensor] = {}
        """Of what learns here: left by `edgepep.derivatives.pull_back`, until the layer learns."""

    def hold(
        self, name: str, value: float | Tensor, low: float, high: float, learn: bool = False, *, above: bool = False
    ) -> None:
        """Keep a parameter: as a number, a buffer with one value a neuron, or an nn.Parameter.

        Raises:
            EdgepepError: if a value is not from low to high (above low, if `above`), or not finite.

        """
        given = value.detach() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        fine = given.isfinite() & (given <= high) & ((given > low) if above else (given >= low))
        if not fine.all():
            allowed = f"above {low:g}" if above else f"from {low:g} to {high:g}"
            raise EdgepepError(f"{name} is {given[~fine].flatten()[0].item():g}; it must be {allowed}.")
        if learn or (isinstance(value, nn.Parameter) and value.requires_grad):
            learned = value if isinstance(value, nn.Parameter) else nn.Parameter(torch.as_tensor(value).clone())
            self.register_parameter(name, learned)
        elif given.numel() == 1:
            setattr(self, name, float(given))
        else:
            self.register_buffer(name, given.clone())

    def extra_repr(self) -> str:
        """Show the numbers when printed."""
        shown: dict[str, object] = {
            n: v for n, v in vars(self).items() if isinstance(v, float) and n != "graded_spikes_factor"
        }
        tensors = {**self._buffers, **dict(self.named_parameters(recurse=False))}
        shown |= {n: f"{list(v.shape)}" for n, v in tensors.items() if v is not None}
        return ", ".join(f"{n}={v}" for n, v in sorted(shown.items())) + f", reset={self.reset_mechanism!r}"

    def advance(self, state: State, current: Tensor) -> tuple[State, Tensor]:
        """Go on by one step: from the state and a current [batch, ...] to the next state and the spikes."""
        raise EdgepepError(f"{type(self).__name__} neurons define no step: write their `advance`.")

    def rest(self, current: Tensor) -> State:
        """State before the first step, for a current [batch, ...]."""
        return tuple(torch.zeros_like(current, memory_format=torch.contiguous_format) for _ in range(self.states))

    def forward(self, current: Tensor) -> Tensor:
        """Spikes for a current, both [time, batch, ...]."""
        spikes, state = self.scan(current)
        self.refuse_what_is_no_number(state)
        return spikes

    def refuse_what_is_no_number(self, state: State) -> None:
        """Raise EdgepepError if a state holds a NaN: it would stay there, unseen, and nothing would fire.

        On a GPU, where looking would wait for it, and under torch.export nothing is looked at.
        """
        if not (torch.compiler.is_exporting() or state[-1].is_cuda) and state[-1].sum().isnan():
            raise EdgepepError(f"a current of {type(self).__name__} neurons is not a number (NaN).")

    def scan(self, current: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run over the time axis; return the spikes and the last state.

        Args:
            current: [time, batch, ...].
            state: from which to go on; else from rest. It may be overwritten.

        Raises:
            EdgepepError: if a parameter does not fit the neurons.

        """
        self._fit(current)
        state = self.rest(current[0]) if state is None else state
        if torch.compiler.is_exporting():
            return self._as_operator(current, state)
        if torch.is_grad_enabled() and (current.requires_grad or any(p.requires_grad for p in self.parameters())):
            return self._stacked(current, state)
        return self._compiled(current, state) if self.compiled else self._in_place(current, state)

    def fire(self, potential: Tensor) -> Tensor:
        """Spikes for a potential [batch, ...]."""
        if torch.is_grad_enabled() and potential.requires_grad:
            spikes = (self.spike_grad or arctangent)(potential - self.threshold).to(potential.dtype)
        else:
            spikes = (potential > self.threshold).to(potential.dtype)
        if self.inhibition:
            highest = (potential - self.threshold).argmax(1, keepdim=True)
            return spikes * torch.zeros_like(spikes).scatter_(1, highest, 1.0)
        return spikes if self.plain_spikes else spikes * self.graded_spikes_factor

    def above(self, potential: Tensor) -> Tensor:
        """Where a potential is above the threshold, as numbers; no gradient goes through it."""
        return (potential.detach() > self.threshold).to(potential.dtype)

    @property
    def plain_spikes(self) -> bool:
        """Whether a spike is 1."""
        return isinstance(self.graded_spikes_factor, float) and self.graded_spikes_factor == 1.0

    def hand_over(self, apply: Callable[[nn.Parameter, Tensor], None]) -> None:
        """Hand the gradients of what learns here to whoever applies them, once."""
        for parameter, gradient in self.gradients.items():
            apply(parameter, gradient)
        self.gradients.clear()

    def after_spike(self, potential: Tensor, spikes: Tensor, reset: Tensor) -> Tensor:
        """Return the potential, reset at once by what has fired and was not reset already, if there is no delay."""
        if self.reset_delay or self.reset_mechanism == "none":
            return potential
        again = spikes / self.graded_spikes_factor - reset
        return potential - again * (self.threshold if self.reset_mechanism == "subtract" else potential)

    def _in_place(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        spikes = torch.empty(current.shape, dtype=current.dtype, device=current.device)
        for t in range(len(current)):
            state, spikes[t] = self.advance(state, current[t])
        return spikes, state

    def _stacked(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        spikes = []
        for step in current.unbind(0):
            state, fired = self.advance(state, step)
            spikes.append(fired)
        return torch.stack(spikes), state

    def _compiled(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        count = -(-len(current) // _BLOCK)
        size, blocks = -(-len(current) // count), []
        for block in current.split(size):
            run = self._block() if len(block) == size else self._in_place
            spikes, state = run(block, state)
            blocks.append(spikes)
        return torch.cat(blocks) if len(blocks) > 1 else blocks[0], state

    def _block(self) -> Callable[[Tensor, State], tuple[Tensor, State]]:
        if "_made" not in vars(self):
            object.__setattr__(self, "_made", torch.compile(self._stacked, dynamic=False, fullgraph=True))
        return cast(Callable[[Tensor, State], tuple[Tensor, State]], vars(self)["_made"])

    def __getstate__(self) -> dict[str, object]:
        """Leave out what was compiled, which cannot be copied."""
        return {name: value for name, value in vars(self).items() if name != "_made"}

    def _as_operator(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        from torch._higher_order_ops.scan import scan

        def step(state: State, current: Tensor) -> tuple[State, Tensor]:
            state, spikes = self.advance(state, current)
            return state, spikes.clone()

        last, spikes = scan(step, state, current.contiguous(), dim=0)
        return spikes, last

    def _fit(self, current: Tensor) -> None:
        """Raise EdgepepError unless every parameter is one value, or one for each neuron."""
        shape = current.shape[1:]
        for name, value in (*self._buffers.items(), *self._parameters.items()):
            if value is not None and value.dim():
                try:
                    fits = torch.broadcast_shapes(value.shape, shape) == shape
                except RuntimeError:
                    fits = False
                if not fits:
                    raise EdgepepError(
                        f"{name} has the shape {list(value.shape)}; the neurons have {list(shape[1:])}: give one "
                        "value, or a tensor that broadcasts over them."
                    )
