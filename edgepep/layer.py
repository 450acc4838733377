"""The unit that a rule updates: preparation, synapses that learn, neurons that answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from edgepep.children import child
from edgepep.convolving import laid_out
from edgepep.derivatives import pull_back_answer, told_by_answer
from edgepep.errors import EdgepepError
from edgepep.fakequant import answer, quick
from edgepep.local import Factor, Gradient, accumulate_, linear_part, weight_gradient
from edgepep.phases import UPDATE, phase
from edgepep.stand_in import StandIn
from edgepep.time_axis import each_step, pull_back_through, through

if TYPE_CHECKING:
    from edgepep.deferred import Deferred
    from edgepep.updater import Updater


class Activity(NamedTuple):
    """What one layer saw and did in one pass, each [batch, ...], or [time, batch, ...] in a layer over time."""

    pre: Tensor
    """What the synapses were given: what the layer reads, after its fixed preparation."""
    current: Tensor
    """What the synapses answered. A ReLU may have overwritten it: take `Layer.kept`."""
    post: Tensor
    """What the neurons answered: activities, or at each time step spikes of 0 and 1."""


class Layer(nn.Module):
    """Fixed preparation, then synapses that learn, then neurons that answer: the unit that a rule updates.

    Args:
        synapses: a module with parameters that `edgepep.local.weight_gradient` knows.
        neurons: what answers the current; no learned weight of its own.
        prepare: fixed work before the synapses: pooling, flatten, an activation quantiser.
        decode: for neurons over time: reads one value from [time, batch, ...], such as the rate. A layer with a
            decoder runs prepare and synapses over all time steps as one batch.
        name: by which the layer is frozen or given a rate; else the network gives it its number.

    """

    prepare: nn.Module = child("prepare")
    synapses: nn.Module = child("synapses")
    neurons: nn.Module = child("neurons")
    decode: nn.Module = child("decode")

    def __init__(
        self,
        synapses: nn.Module,
        neurons: nn.Module | None = None,
        prepare: nn.Module | None = None,
        decode: nn.Module | None = None,
        name: str = "",
    ) -> None:
        super().__init__()
        self.prepare = prepare or nn.Identity()
        self.synapses = synapses
        self.neurons = neurons or nn.Identity()
        self.decode = decode or nn.Identity()
        self.over_time = decode is not None
        self.in_windows = False
        self.channels_last = False
        """Whether a convolution on a CPU is given images with the channels last in memory, on which it is quicker. What
        follows is laid out so too, and a module that calls `view` on it fails; so converted networks do without."""
        self.updater: Updater | None = None
        self.deferred: Deferred | None = None
        self.name, self.resting = name, False
        self._norms = [m for part in (self.prepare, self.neurons) for m in part.modules() if hasattr(m, "hand_over")]
        self._recurrent = [m for m in self.neurons.modules() if hasattr(m, "heard")]

    def forward(self, x: Tensor) -> Activity:
        """Answer an input [batch, ...], or [time, batch, ...] over time."""
        if self.over_time:
            pre = each_step(self.prepare, x)
            current = each_step(quick(self.synapses), pre)
        else:
            pre = through(self.prepare, x)
            if self.channels_last:
                pre = laid_out(self.synapses, pre)
            current = self.drive(pre)
        return Activity(pre, current, through(self.neurons, current))

    def drive(self, pre: Tensor) -> Tensor:
        """Return what the synapses answer to pre [batch, ...], with the updates that wait to be written into them."""
        current = answer(self.synapses, pre)
        return current if self.deferred is None else self.deferred.corrected(pre, current)

    def answered(self, current: Tensor) -> Tensor:
        """Return what the neurons answer; a ReLU overwrites the current: its sign is all that is asked of it later."""
        neurons = self.neurons
        if type(neurons) is nn.ReLU and not neurons._forward_hooks and not torch.is_grad_enabled():
            return current.relu_()
        return through(neurons, current)

    def read(self, x: Tensor) -> Tensor:
        """Return what a rule reads from an activity of this layer: x itself, or over time what decode makes of it."""
        return through(self.decode, x)

    def read_input(self, pre: Tensor) -> Tensor:
        """Return what the synapses are given, [batch, ...]: over time, its mean."""
        return (pre[0] if pre.stride(0) == 0 else pre.mean(0)) if self.over_time else pre

    def kept(self, activity: Activity) -> Tensor:
        """Return what `error_at_current` needs of an activity: the post where that will do, else the current."""
        return activity.post if told_by_answer(self.neurons) else activity.current

    def error_at_current(self, kept: Tensor, credit: Tensor) -> Tensor:
        """Pull a credit for what is read of the post back to the current, by the neurons' own derivative.

        Args:
            kept: what `kept` gave.
            credit: [batch, ...], with 1 for the axes along which it is the same.

        """
        if type(self.neurons) is nn.Identity and not self.over_time:
            return credit
        self.refuse_windows()
        credit = credit.expand(kept.shape[1 if self.over_time else 0 :])
        return self.through_neurons(kept, pull_back_through(self.decode, kept, credit))

    def through_neurons(self, kept: Tensor, delta: Tensor) -> Tensor:
        """Pull an error of the post's shape back to the current."""
        if told_by_answer(self.neurons):
            return pull_back_answer(self.neurons, kept, delta)
        return pull_back_through(self.neurons, kept, delta)

    def refuse_windows(self) -> None:
        """Raise EdgepepError if the network runs in windows of time, and currents are not kept."""
        if self.in_windows:
            raise EdgepepError(
                f"the rule needs the current of layer {self.name} at every time step, which a network that runs in "
                "windows does not keep; set its window to None."
            )

    def learn(self, pre: Tensor, delta: Tensor, scale: Factor = 1.0) -> None:
        """Change the weights by the gradient of scale * sum(delta * synapses(pre)): the only place where they change.

        Adds to `.grad`, for any torch optimizer; or hands the gradient to the updater, which applies it at once.

        Args:
            pre: input of the synapses, [batch, ...] or [time, batch, ...].
            delta: error at their output, of the shape of their answer to pre.
            scale: a factor, such as 1 / batch size.

        """
        if self.resting:
            self.forget()
            return
        with phase(UPDATE, self.name):
            if self.learns:
                synapses = self.synapses
                for name, gradient in weight_gradient(synapses, pre, delta).items():
                    parameter = synapses._parameters[name]
                    if parameter is not None and parameter.requires_grad:
                        self._change(parameter, gradient, scale)
            for recurrent in self._recurrent:
                recurrent.learn(delta, lambda parameter, gradient: self._change(parameter, gradient, scale))  # type: ignore[operator]
            for norm in self._norms:
                norm.hand_over(lambda parameter, gradient: self._change(parameter, gradient, scale))  # type: ignore[operator]

    def _change(self, parameter: nn.Parameter, gradient: Gradient, scale: Factor) -> None:
        if self.updater is not None:
            self.updater.apply(parameter, gradient, scale)
            return
        self.refuse_codes(parameter)
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        accumulate_(parameter.grad, gradient, alpha=scale)

    def refuse_codes(self, parameter: nn.Parameter) -> None:
        """Raise EdgepepError if a parameter is integer codes, which no gradient held for an optimizer can change."""
        if isinstance(parameter, StandIn):
            raise EdgepepError(
                f"layer {self.name} has integer weights, which a torch optimizer cannot change; make an InPlaceSGD of "
                "the network."
            )

    def forget(self) -> None:
        """Let go of what was left here for normalisations to learn from."""
        for norm in self._norms:
            norm.gradients.clear()  # type: ignore[operator, union-attr]

    def learnable(self) -> list[nn.Parameter]:
        """Parameters that rules may change: of the synapses, then of normalisations around them."""
        if self.resting:
            return []
        found = [*self.synapses.parameters(), *(p for norm in self._norms for p in norm.parameters())]
        return [p for p in found if p.requires_grad]

    @property
    def learns_before(self) -> bool:
        """Whether a normalisation before the synapses learns."""
        if not self._norms or self.resting:
            return False
        return any(p.requires_grad for m in self.prepare.modules() if m in self._norms for p in m.parameters())

    @property
    def learns(self) -> bool:
        """Whether any parameter of the synapses is to be changed."""
        if self.resting:
            return False
        for parameter in self.synapses._parameters.values():
            if parameter is not None and parameter.requires_grad:
                return True
        return False

    def answer_to(self, feedback: Tensor, batch: int, fixed: bool) -> Tensor | None:
        """What the synapses add to their current for each row of the feedback, or None where that costs too much."""
        if (
            fixed
            and self.updater is not None
            and self.updater.follow
            and type(self.synapses) is nn.Linear
            and feedback.dim() == 2
        ):
            return self.updater.response(self.synapses._parameters["weight"], feedback)  # type: ignore[arg-type]
        cheap = torch.compiler.is_exporting() or len(feedback) < batch  # a graph is for any batch
        return linear_part(self.synapses, feedback) if cheap and self.deferred is None else None
