"""SPELA: every layer learns, in a single forward pass, to point to its own fixed vector of the class."""

import torch
from torch import Tensor

from edgepep.feedback import Feedback
from edgepep.network import Network
from edgepep.rule import Outcome, Rule, Traits, like, survey


class Spela(Rule):
    """Single forward pass: each layer turns its activity towards a fixed vector that stands for the class.

    Each layer has one unit vector v_c a class, as far apart as they go (a regular simplex where the layer is wide
    enough), and learns from its own loss, at once when the pass reaches it:

        L_l = log(2 - cos(h_l, v_y));    dW_l = (dL_l/dh_l * f')^T h_(l-1), averaged over the batch

    The output's vectors are the corners of the standard simplex, so that the class whose vector is nearest to the
    logits is the class of the largest logit. Layers read what lies below unnormalised, as in the authors' code.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        seed: of the vectors.

    """

    source = "Somasundaram, Mishra & Borthakur 2024 (arXiv 2402.09769)"
    traits = Traits("1 forward", False, "nothing", "label", "A2 + maps")
    replayable = True

    def __init__(self, network: Network, example: Tensor, *, seed: int = 0) -> None:
        super().__init__(network, example)
        _, *posts = survey(network, example)
        classes = posts[-1][0]
        for i, (layer, post) in enumerate(zip(network.chain, posts, strict=True)):
            if layer.learns:
                last = i == len(posts) - 1
                raw = torch.eye(classes) if last else _far_apart(classes, post.numel(), seed, i)
                raw = raw - raw.mean(0)
                vectors = (raw / raw.norm(dim=1, keepdim=True)).view(classes, *post)
                self.register_buffer(f"vectors_{i}", vectors.to(like(network)))

    @torch.no_grad()
    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Run forward once; each layer learns as soon as it has its answer."""
        for i, (layer, activity) in enumerate(zip(self.network.chain, self.network.stream(x), strict=True)):
            pre, kept, answer = activity.pre, layer.kept(activity), layer.read(activity.post)
            del activity
            if layer.learns:
                credit = _turn(answer, self.get_buffer(f"vectors_{i}")[target])
                layer.learn(pre, layer.error_at_current(kept, credit), 1 / target.shape[0])
                del credit
            del pre, kept
        return Outcome(answer, target)


def _turn(h: Tensor, v: Tensor) -> Tensor:
    """Gradient of log(2 - cos(h, v)) in h, for unit vectors v; both [batch, ...]."""
    flat, unit = h.flatten(1), v.flatten(1)
    length = flat.norm(dim=1, keepdim=True)
    norm = torch.where(length > 0, length, torch.inf)  # a silent layer points nowhere, and cannot be turned
    direction = flat / norm
    cosine = (direction * unit).sum(1, keepdim=True)
    gradient: Tensor = (direction * cosine - unit) / (norm * (2 - cosine))
    return gradient.view_as(h)


def _far_apart(classes: int, width: int, seed: int, place: int) -> Tensor:
    """Directions [classes, width]: orthogonal, or where there is no room for that, spread by their repulsion."""
    drawn: Tensor = Feedback((classes, width), 1.0, seed, place, torch.empty(0, dtype=torch.float64))()
    if width >= classes:
        orthogonal: Tensor = torch.linalg.qr(drawn.t())[0]
        return orthogonal.t().float()
    points: Tensor = drawn / drawn.norm(dim=1, keepdim=True)
    for _ in range(500):
        distance = (2 - 2 * points @ points.t()).clamp_(min=1e-4).sqrt_()
        push = (distance**3 + 1e-3).reciprocal_().fill_diagonal_(0)
        points = points + 0.01 * (points * push.sum(1, keepdim=True) - push @ points)
        points = points / points.norm(dim=1, keepdim=True)
    return points.float()
