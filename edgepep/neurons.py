"""Neurons beyond torch.nn: spiking populations over time, the codes that go with them, and repeatable dropout."""

import math

import torch
from torch import Tensor, nn

from edgepep import noise
from edgepep.errors import EdgepepError
from edgepep.local import pull_back


class Leaky(nn.Module):
    """Leaky integrate-and-fire neurons over the time axis: snnTorch's `Leaky`, spike for spike.

        u[t] = beta u[t-1] + I[t] - threshold s[t-1];    s[t] = 1 where u[t] > threshold, else 0

    This is snnTorch's default (`reset_mechanism="subtract"`, `reset_delay=True`). No state is kept between calls.
    Without autograd the scan runs in place; with autograd it uses snnTorch's arctangent surrogate (Fang et al. 2021),
    so that backpropagation through time is snnTorch's; under torch.export it becomes one scan operator.

    Args:
        beta: share of the potential that is left after a step, in [0, 1].
        threshold: potential above which a neuron fires, > 0.

    Raises:
        EdgepepError: if a value is out of range.

    """

    def __init__(self, beta: float = 0.9, threshold: float = 1.0) -> None:
        super().__init__()
        if not 0 <= beta <= 1:
            raise EdgepepError(f"beta is {beta}; it must be from 0 to 1.")
        if not threshold > 0:
            raise EdgepepError(f"threshold is {threshold}; it must be above 0.")
        self.beta, self.threshold = beta, threshold

    def extra_repr(self) -> str:
        """Show the parameters when printed."""
        return f"beta={self.beta}, threshold={self.threshold}"

    def forward(self, current: Tensor) -> Tensor:
        """Spikes (0 or 1) for a current, both [time, batch, ...]."""
        if torch.compiler.is_exporting():
            return self._as_operator(current)
        if torch.is_grad_enabled() and current.requires_grad:
            return self._with_surrogate(current)
        return self._in_place(current)

    def _in_place(self, current: Tensor) -> Tensor:
        spikes = torch.empty(current.shape, dtype=current.dtype, device=current.device)
        potential = current[0].clone()
        torch.gt(potential, self.threshold, out=spikes[0])
        for t in range(1, len(current)):
            potential.mul_(self.beta).add_(current[t]).sub_(spikes[t - 1], alpha=self.threshold)
            torch.gt(potential, self.threshold, out=spikes[t])
        return spikes

    def _with_surrogate(self, current: Tensor) -> Tensor:
        from snntorch import surrogate

        fire = surrogate.atan()
        potential = torch.zeros_like(current[0])
        spikes = [potential]
        for step in current.unbind(0):
            potential = self.beta * potential + step - self.threshold * spikes[-1].detach()
            spikes.append(fire(potential - self.threshold))
        return torch.stack(spikes[1:])

    def _as_operator(self, current: Tensor) -> Tensor:
        from torch._higher_order_ops.scan import scan

        def step(state: tuple[Tensor, Tensor], current: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
            potential, spikes = state
            potential = self.beta * potential + current - self.threshold * spikes
            spikes = (potential > self.threshold).to(current.dtype)
            return (potential, spikes), spikes.clone()

        rest = torch.zeros_like(current[0])
        spikes: Tensor = scan(step, (rest, rest.clone()), current.contiguous(), dim=0)[1]
        return spikes


@pull_back.register
def _(f: Leaky, x: Tensor, delta: Tensor) -> Tensor:
    """Backpropagation through time within one population, with snnTorch's surrogate and detached reset; no graph."""
    spikes, potentials, potential = f(x), torch.empty_like(x), torch.zeros_like(x[0])
    for t in range(len(x)):
        potential.mul_(f.beta).add_(x[t])
        if t:
            potential.sub_(spikes[t - 1], alpha=f.threshold)
        potentials[t] = potential
    slope = potentials.sub_(f.threshold).mul_(math.pi).square_().add_(1).reciprocal_()
    gradient = delta * slope
    for t in range(len(x) - 2, -1, -1):
        gradient[t].add_(gradient[t + 1], alpha=f.beta)
    return gradient


class Repeat(nn.Module):
    """Direct encoding: the data as a current that is the same at every step, expanded and not copied.

    Args:
        steps: number of time steps, at least 1.

    Raises:
        EdgepepError: if steps is below 1.

    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        if steps < 1:
            raise EdgepepError(f"steps is {steps}; a spiking network needs at least 1 time step.")
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        """From [batch, ...] to [time, batch, ...]."""
        return x.expand(self.steps, *x.shape)


class Rate(nn.Module):
    """Rate decoding: the mean over time."""

    def forward(self, x: Tensor) -> Tensor:
        """From [time, batch, ...] to [batch, ...]."""
        return x[0] if x.stride(0) == 0 else x.mean(0)


@pull_back.register
def _(f: Rate, x: Tensor, delta: Tensor) -> Tensor:
    return (delta / len(x)).expand(x.shape)


class Normalise(nn.Module):
    """Division of each sample by the root mean square ("rms") or the length ("l2") of its values.

    Each sample by itself, so that an answer does not depend on what else is in the batch.

    Args:
        kind: "rms" or "l2".

    Raises:
        EdgepepError: if kind is neither.

    """

    def __init__(self, kind: str = "rms") -> None:
        super().__init__()
        if kind not in ("rms", "l2"):
            raise EdgepepError(f"kind of normalisation is {kind!r}; it must be 'rms' or 'l2'.")
        self.kind = kind

    def extra_repr(self) -> str:
        """Show the parameters when printed."""
        return repr(self.kind)

    def forward(self, x: Tensor) -> Tensor:
        """From and to [batch, ...]; zeros stay zeros."""
        axes = tuple(range(1, x.dim()))
        power = x.square().mean(axes, keepdim=True) if self.kind == "rms" else x.square().sum(axes, keepdim=True)
        return x * (power + 1e-8).rsqrt()


def normalised(prepare: nn.Module) -> nn.Module:
    """Return a layer's preparation with a normalisation of what it reads; as it is, if it has one."""
    if any(isinstance(module, Normalise) for module in prepare.modules()):
        return prepare
    modules = [m for m in (prepare if isinstance(prepare, nn.Sequential) else [prepare]) if type(m) is not nn.Identity]
    at = 1 if modules and isinstance(modules[0], Rate) else 0  # a readout of spikes normalises their rate
    return nn.Sequential(*modules[:at], Normalise(), *modules[at:])


class Dropout(nn.Module):
    """Dropout with a mask that is a function of (seed, step, place): the two passes of a step share it unsaved.

    Kept values are divided by 1 - p, as in torch. `Network.renew_noise` goes on to the next step's mask.

    Args:
        p: share of values set to zero, in [0, 1).
        seed: of the masks.

    Raises:
        EdgepepError: if p is out of range.

    """

    step: Tensor

    def __init__(self, p: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise EdgepepError(f"p is {p}; dropout's share must be at least 0 and below 1.")
        self.p, self.seed, self.place = p, seed, 0
        self.register_buffer("step", torch.zeros((), dtype=torch.int32))

    def extra_repr(self) -> str:
        """Show the parameters when printed."""
        return f"p={self.p}, seed={self.seed}"

    def renew(self) -> None:
        """Go on to the next mask."""
        self.step += 1

    def forward(self, x: Tensor) -> Tensor:
        """Return x with some values zeroed while training, x itself in evaluation."""
        if not self.training or not self.p:
            return x
        key = noise.key(self.seed, self.place, self.step, device=x.device)
        return x.masked_fill(noise.bernoulli(x.shape, self.p, key), 0.0).mul_(1 / (1 - self.p))


@pull_back.register
def _(f: Dropout, x: Tensor, delta: Tensor) -> Tensor:
    dropped: Tensor = f(delta)  # linear, with the mask of this step
    return dropped
