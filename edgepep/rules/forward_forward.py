"""Forward-Forward: two forward passes, on data with the right and a wrong label; each layer has its own goodness."""

from itertools import count, islice, product

import torch
from torch import Tensor, nn

from edgepep import noise
from edgepep.errors import EdgepepError
from edgepep.network import Network
from edgepep.neurons import normalised
from edgepep.rule import Outcome, Rule, Traits, classes_of, one_of, output_error, survey


class ForwardForward(Rule):
    """Every hidden layer learns to be active for data with the right label and quiet for data with a wrong one.

    With a the layer's activity, n its size and the goodness g = mean(a^2), s = +1 for right and -1 for wrong labels:

        L_l = softplus(-s (g - threshold));    dL_l/da = -s sigmoid(-s (g - threshold)) 2 a / n

    No error leaves its layer. Every layer reads what lies below divided by its root mean square, so that goodness
    does not leak upwards; the rule puts this normalisation into the network's layers when it is made, and from then on
    it is part of the network. `predict` tries every label. The last layer is a softmax readout of the last hidden layer
    for data with a neutral label (all labels in equal parts), which the rule makes the network's encoder put in:
    `network(x)` classifies in one pass, less well in narrow networks.

    Args:
        network: what learns; it is given the normalisation and the neutral label, for whatever else uses it too.
        example: one batch of inputs [batch, ...].
        threshold: of the mean of a^2.
        goodness: "mean" of a^2, or "sum", as in Hinton's text: the same but for a sharper softplus and longer steps.
        label: "pixels": the first values of the input are replaced by the one-hot label; "waves": a plane wave a class
            is added to the whole image, so that the label reaches every receptive field; "auto": waves for inputs with
            positions into convolutions, else pixels.
        label_scale: size of the label, in the sample's largest value.
        negatives: "uniform" over the wrong labels, or "hard": drawn by what the readout takes the sample for. A
            negative never carries the right label.
        inference: `predict` by "all_labels": the label with which the goodness is largest, summed over the
            hidden layers; or by "one_pass".
        skip: hidden layers left out of that sum, from the first; the paper leaves out one of four.
        seed: of the negatives.

    Raises:
        EdgepepError: if an option is none of its values, or the input has fewer values than there are classes.

    """

    source = "Hinton 2022 (arXiv 2212.13345)"
    traits = Traits("1 forward, then 2", False, "nothing", "label in the input", "A2, twice")
    replayable = True
    step: Tensor

    def __init__(
        self,
        network: Network,
        example: Tensor,
        *,
        threshold: float = 2.0,
        label: str = "auto",
        label_scale: float = 1.0,
        goodness: str = "mean",
        negatives: str = "uniform",
        inference: str = "all_labels",
        skip: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(network, example)
        if not example.is_floating_point():
            raise EdgepepError(f"the input is {example.dtype}; the rule changes inputs, and needs floating-point ones.")
        one_of("label", label, "auto", "pixels", "waves")
        one_of("goodness", goodness, "mean", "sum")
        one_of("negatives", negatives, "uniform", "hard")
        one_of("inference", inference, "one_pass", "all_labels")
        self.threshold, self.seed = threshold, seed
        if skip and not 0 <= skip < len(network.chain) - 1:
            raise EdgepepError(f"skip is {skip}; the network has {len(network.chain) - 1} hidden layers.")
        self.skip = skip
        self.goodness, self.negatives, self.inference = goodness, negatives, inference
        for layer in network.chain:
            if layer.learns:
                layer.prepare = normalised(layer.prepare)
        self.classes = survey(network, example)[-1][0]
        if label == "auto":
            first = network.chain[0].synapses
            label = "waves" if isinstance(first, (nn.Conv1d, nn.Conv2d)) else "pixels"
        before = list(network.encode) if isinstance(network.encode, nn.Sequential) else [network.encode]
        encode = [m for m in before if type(m) not in (LabelledInput, nn.Identity)]
        self.labels = LabelledInput(example, self.classes, label, label_scale)
        network.encode = nn.Sequential(self.labels, *encode) if encode else self.labels
        self.register_buffer("step", torch.zeros((), dtype=torch.int32))

    @torch.no_grad()
    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Train the readout on the data as they are, then the hidden layers on data with labels."""
        self.network.chain[0].refuse_windows()
        self.step += 1
        *_, last = self.network.stream(x)
        logits, output = self.network.readout(last.post), self.network.chain[-1]
        output.learn(
            last.pre, output.error_at_current(output.kept(last), output_error(logits, target)), 1 / target.shape[0]
        )
        del last
        self.labels.label = torch.cat([target, self.wrong(target, logits)])
        sign = torch.ones(2 * x.shape[0], dtype=x.dtype, device=x.device)
        sign[x.shape[0] :] = -1
        try:
            for layer, activity in zip(self.network.chain[:-1], self.network.stream(torch.cat([x, x])), strict=False):
                pre, kept, answer = activity.pre, layer.kept(activity), layer.read(activity.post)
                del activity
                size = answer[0].numel() if self.goodness == "mean" else 1
                excess = (_goodness(answer) - self.threshold) * (answer[0].numel() / size)
                slope = -sign * torch.sigmoid(-sign * excess) * (2 / size)
                credit = answer * slope.view(-1, *[1] * (answer.dim() - 1))
                layer.learn(pre, layer.error_at_current(kept, credit), 1 / x.shape[0])
                del pre, kept, answer, credit
        finally:
            self.labels.label = None
        return Outcome(logits, target)

    def predict(self, x: Tensor) -> Tensor:
        """Logits of the readout, or the goodness with each label; [batch, classes]."""
        if self.inference == "one_pass":
            return super().predict(x)
        return torch.stack([self._goodness_with(x, label) for label in range(self.classes)], 1)

    @property
    def asks_the_network(self) -> bool:
        """Only in one pass."""
        return self.inference == "one_pass"

    def wrong(self, target: Tensor, logits: Tensor) -> Tensor:
        """Labels [batch] of the negatives; never the right one."""
        key = noise.key(self.seed, self.step, device=target.device)
        u = (
            noise.bits((target.shape[0], self.classes), key)
            .to(torch.float32)
            .mul_(2.0**-32)
            .add_(0.5)
            .clamp_(1e-7, 1 - 1e-7)
        )
        chance = -torch.log(-torch.log(u))  # Gumbel noise: the largest sum is a draw from the softmax
        if self.negatives == "hard":
            chance = chance + logits.log_softmax(1)
        return chance.scatter(1, target.unsqueeze(1), -torch.inf).argmax(1)

    def _goodness_with(self, x: Tensor, label: int) -> Tensor:
        hidden = self.network.chain[:-1]
        total = x.new_zeros(x.shape[0])
        counted = [i for i, layer in enumerate(hidden) if layer.learns][self.skip :]
        self.labels.label = torch.full((x.shape[0],), label, device=x.device)
        for i, (layer, activity) in enumerate(zip(hidden, self.network.stream(x), strict=False)):
            if i in counted:
                total += _goodness(layer.read(activity.post))
        self.labels.label = None
        return total


class LabelledInput(nn.Module):
    """Puts a label into each input: the one in `label` [batch], or where that is None all labels in equal parts.

    Args:
        example: inputs [batch, ...].
        classes: number of labels.
        form: "pixels" or "waves", as in ForwardForward.
        scale: size of the label, in the sample's largest value.

    """

    waves: Tensor | None

    def __init__(self, example: Tensor, classes: int, form: str, scale: float) -> None:
        super().__init__()
        if form == "pixels" and example[0].numel() < classes:
            raise EdgepepError(f"an input of {example[0].numel()} values has no room for {classes} labels.")
        if form == "waves" and example.dim() < 3:
            raise EdgepepError(f"label is 'waves', but an input of shape {list(example.shape[1:])} has no positions.")
        self.classes, self.scale = classes, scale
        self.label: Tensor | None = None
        self.register_buffer("waves", _waves(classes, example.shape[2:]).to(example) if form == "waves" else None)

    def forward(self, x: Tensor) -> Tensor:
        """From and to [batch, ...]."""
        size = x.flatten(1).abs().amax(1) * self.scale
        if self.waves is not None:
            wave = self.waves.mean(0, keepdim=True) if self.label is None else self.waves[self.label]
            return x + wave.unsqueeze(1) * size.view(-1, *[1] * (x.dim() - 1))
        rest = x.flatten(1)[:, self.classes :]
        if self.label is None:
            share = torch.full((1, self.classes), 1 / self.classes, dtype=x.dtype, device=x.device)
        else:
            share = classes_of(self.label, self.classes, x.dtype)
        return torch.cat([share * size.unsqueeze(1), rest], 1).view(x.shape)


def _goodness(answer: Tensor) -> Tensor:
    return answer.flatten(1).square().mean(1)


def _waves(classes: int, shape: torch.Size) -> Tensor:
    """Plane waves [classes, *shape] of the lowest frequencies, each class its own."""
    reach = next(n for n in count(2) if n ** len(shape) > classes)
    frequencies = sorted(product(range(reach), repeat=len(shape)), key=lambda k: (sum(n * n for n in k), k))
    axes = [torch.arange(n) / n for n in shape]
    grid = torch.meshgrid(*axes, indexing="ij")
    chosen = islice(frequencies[1:], classes)
    turns = [torch.stack([n * r for n, r in zip(k, grid, strict=True)]).sum(0) for k in chosen]
    return torch.cos(2 * torch.pi * torch.stack(turns))
