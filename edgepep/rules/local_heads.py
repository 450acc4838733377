"""Local heads: every hidden layer learns from the error of a small readout of its own, in a single forward pass."""

import torch
from torch import Tensor, nn

from edgepep.errors import EdgepepError
from edgepep.feedback import Feedback, Storage
from edgepep.network import Network
from edgepep.phases import ALIGN, PROJECTION, SECOND, phase
from edgepep.rule import Outcome, Rule, Traits, like, one_of, output_error, survey, within
from edgepep.time_axis import through


class LocalHeads(Rule):
    """Every hidden layer has its own linear readout, its head, and learns from that head's error; no error leaves it.

    With p_l the layer's answer h_l, pooled if it has positions, and V_l the head, as the pass reaches the layer:

        e_l = softmax(V_l p_l) - one-hot;    c_l = e_l B_l, taken back through the pooling to h_l
        dW_l = (c_l * f'(z_l))^T h_(l-1);    dV_l = e_l^T p_l;    both averaged over the batch

    and the layer above reads h_l. Nothing is kept, and no layer waits for another. B_l is never read off V_l: it is
    drawn apart from it and gets the same steps and the same decay, by which the two become equal ("kolen_pollack"),
    or it stays as drawn ("random"), or V_l stays as drawn as well, and both are drawn alike ("fixed"; Mostafa et al.).

    Instead of f' a layer may ask its neurons, as PEPITA does, by a second pass of this layer alone, on a current
    modulated by the credit: the difference of its two answers is what it learns from (`credit="second_pass"`):

        g_l = f(z_l - strength c_l);    dW_l = ((h_l - g_l) / strength)^T h_(l-1)

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        feedback: what B is: "kolen_pollack", "random" or "fixed".
        credit: "derivative" or "second_pass".
        pool: a head reads the largest value of each window of a map, "max", or the mean of each, "mean".
        cells: windows of a map along each axis, at most; as many as divide it evenly.
        head_rate: learning rate of the heads, the same throughout: a schedule of the layers' rate does not change it.
        head_momentum: theirs.
        decay: share of head and feedback that is lost at every step, from 0 to 1; "kolen_pollack" only.
        feedback_scale: first B, and a fixed head, are uniform on +-feedback_scale / sqrt(values that a head reads).
        strength: of a second pass.
        storage: how is kept what is drawn, B or a "fixed" head: "float", "int8", "sign", or not at all: "seed". With
            "kolen_pollack" it is what B has beside V, which decays: unless "float", by one number for all of it.
        seed: of what is drawn.

    Raises:
        EdgepepError: if an option is none of its values, or out of range.

    """

    source = "Mostafa, Ramesh & Cauwenberghs 2018; Noekland & Eidnes 2019; with the modulation of PEPITA"
    traits = Traits("1 forward", False, "nothing", "label, f'", "A2 + heads")
    replayable = True

    def __init__(
        self,
        network: Network,
        example: Tensor,
        *,
        feedback: str = "kolen_pollack",
        credit: str = "derivative",
        pool: str = "max",
        cells: int = 7,
        head_rate: float = 0.01,
        head_momentum: float = 0.9,
        decay: float = 1e-4,
        feedback_scale: float = 1.0,
        strength: float = 0.1,
        storage: Storage = "float",
        seed: int = 0,
    ) -> None:
        super().__init__(network, example)
        one_of("feedback", feedback, "kolen_pollack", "random", "fixed")
        one_of("credit", credit, "derivative", "second_pass")
        one_of("pool", pool, "max", "mean")
        within("cells", cells, 1, float("inf"))
        within("head_rate", head_rate, 0.0, float("inf"))
        within("head_momentum", head_momentum, 0.0, 1.0)
        within("decay", decay, 0.0, 1.0)
        if not 0 < strength < float("inf"):
            raise EdgepepError(f"strength is {strength}; it must be above 0.")
        self.strength, self.second = strength, credit == "second_pass"
        if self.second:
            self.traits = self.traits._replace(passes="1 forward, each layer's neurons again", non_local="label")
        _, *posts, (classes,) = survey(network, example)
        self.heads = nn.ModuleDict()
        for i, (layer, post) in enumerate(zip(network.chain[:-1], posts, strict=True)):
            if not layer.learns:
                continue
            head = Head(post, classes, pool, cells, head_rate, head_momentum)
            head.draw(feedback, decay, feedback_scale, storage, seed, i, like(network))
            self.heads[str(i)] = head
            if self.second:  # the current is used again
                for module in layer.neurons.modules():
                    if getattr(module, "inplace", False):
                        module.inplace = False  # type: ignore[assignment]

    @torch.no_grad()
    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Run forward once; each layer learns as soon as it has its answer, and so does its head."""
        last = len(self.network.chain) - 1
        for i, (layer, activity) in enumerate(zip(self.network.chain, self.network.stream(x), strict=True)):
            pre, answer = activity.pre, layer.read(activity.post)
            needed = activity.current if self.second and i < last else layer.kept(activity)
            del activity
            if i == last:
                error = output_error(answer, target)
                layer.learn(pre, layer.error_at_current(needed, error), 1 / target.shape[0])
            elif layer.learns:
                pre, delta, scale = self.factors(i, pre, needed, answer, target)
                layer.learn(pre, delta, scale / target.shape[0])
                del delta
            del pre, needed
        return Outcome(answer, target)

    def factors(
        self, i: int, pre: Tensor, needed: Tensor, answer: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor, float]:
        """Presynaptic and postsynaptic factors of a hidden layer's update, and a factor of it; its head learns.

        needed: the current for a second answer, else what `Layer.kept` gave.
        """
        layer = self.network.chain[i]
        with phase(PROJECTION, layer.name):
            credit: Tensor = self.heads[str(i)](answer, target)
        if not self.second:
            return pre, layer.error_at_current(needed, credit), 1.0
        layer.refuse_windows()
        with phase(SECOND, layer.name):
            again = layer.read(layer.answered(torch.sub(needed, credit, alpha=self.strength)))
        return layer.read_input(pre), answer - again, 1 / self.strength


class Head(nn.Module):
    """A linear readout of one layer's answer, pooled if it has positions, and the way by which its error comes back.

    Args:
        shape: of one answer: [features], or [channels, *positions].
        classes: how many there are.
        pool: "max" or "mean" of each window.
        cells: windows along each axis, at most.
        rate: learning rate.
        momentum: heavy-ball momentum.

    """

    def __init__(self, shape: torch.Size, classes: int, pool: str, cells: int, rate: float, momentum: float) -> None:
        super().__init__()
        windows = [max(k for k in range(1, min(cells, n) + 1) if n % k == 0) for n in shape[1:]]
        self.sizes = [n // k for n, k in zip(shape[1:], windows, strict=True)]
        self.shape, self.largest = (classes, shape[0], *windows), pool == "max"
        self.pool = _pooling(self.sizes, self.largest)
        self.rate, self.momentum = rate, momentum

    weights: Tensor
    velocity: Tensor
    gap: Tensor
    left: Tensor

    def draw(
        self, feedback: str, decay: float, scale: float, storage: Storage, seed: int, place: int, like: Tensor
    ) -> None:
        """Make the weights and the feedback [classes, *pooled answer]."""
        features = torch.Size(self.shape[1:]).numel()
        self.seed, self.place = seed, place
        drawn = Feedback((self.shape[0], features), scale * features**-0.5, seed, place, like, storage)
        self.mirrors, self.fixed = feedback == "kolen_pollack", feedback == "fixed"
        self.decay = decay if self.mirrors else 0.0
        self.feedback = drawn if not self.mirrors or storage != "float" else None
        if not self.fixed:
            self.register_buffer("weights", torch.zeros_like(drawn()))
            if self.momentum:
                self.register_buffer("velocity", torch.zeros_like(drawn()))
        if self.feedback is None:  # as rules.kolen_pollack keeps it
            self.register_buffer("gap", drawn().clone())
        elif self.mirrors:
            self.register_buffer("left", torch.ones((), dtype=like.dtype, device=like.device))

    def forward(self, h: Tensor, target: Tensor) -> Tensor:
        """Credit of an answer h [batch, ...]; the head learns on the way."""
        pooled = through(self.pool, h)
        p = pooled.flatten(1)
        back = self.way()
        error = output_error(p @ (back if self.fixed else self.weights).t(), target)
        credit = self.back(h, pooled, (error @ back).view(pooled.shape))
        if not self.fixed:
            with phase(ALIGN):
                self.learn(p, error)
        return credit

    def way(self) -> Tensor:
        """The feedback [classes, values that are read]."""
        if not self.mirrors:
            drawn: Tensor = self.feedback()  # type: ignore[misc]
            return drawn
        return self.weights + (self.gap if self.feedback is None else self.feedback() * self.left)

    def learn(self, p: Tensor, error: Tensor) -> None:
        """Change the weights, and what becomes equal to them."""
        share = p / p.shape[0]
        step = self.velocity.mul_(self.momentum).addmm_(error.t(), share) if self.momentum else error.t() @ share
        if self.decay:
            self.weights.mul_(1 - self.decay)
            (self.gap if self.feedback is None else self.left).mul_(1 - self.decay)
        self.weights.sub_(step, alpha=self.rate)

    def back(self, h: Tensor, pooled: Tensor, credit: Tensor) -> Tensor:
        """Credit of the pooled answer, taken back to h: to each window's largest value, or to all in equal parts."""
        if type(self.pool) is nn.Identity:
            return credit
        wide = self.spread(credit)
        if self.largest:  # where several are the largest, a ReLU has cut them all off
            return wide.masked_fill_(h != self.spread(pooled), 0.0)
        return wide / torch.Size(self.sizes).numel()

    def spread(self, x: Tensor) -> Tensor:
        """One value a window, at every position of it."""
        for axis, size in reversed(list(enumerate(self.sizes, 2))):
            x = x.repeat_interleave(size, axis)
        return x


def _pooling(sizes: list[int], largest: bool) -> nn.Module:
    """Pooling of maps by windows of these sizes, one an axis."""
    if all(size == 1 for size in sizes):
        return nn.Identity()
    if len(sizes) == 1:
        return nn.MaxPool1d(sizes[0]) if largest else nn.AvgPool1d(sizes[0])
    pair = (sizes[0], sizes[1])
    return nn.MaxPool2d(pair) if largest else nn.AvgPool2d(pair)
