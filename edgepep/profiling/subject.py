"""What is profiled: a recipe, a run of it, or a module of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgepep import checkpoint, datasets, models, plugins
from edgepep.build import rule_class, rule_options
from edgepep.errors import EdgepepError
from edgepep.network import Network
from edgepep.rule import Rule


@dataclass(frozen=True)
class Subject:
    """A network that can be made again and again, and the rules for it."""

    name: str
    shape: tuple[int, ...]
    classes: int
    batch: int
    """Samples in one step of training, where nothing else is asked for."""
    momentum: float
    network: Callable[[str], Network]
    """From a rule's name."""
    rule: Callable[[Network, str, dict[str, object]], Rule]
    """From a network, a rule's name and options of it."""
    recipe: models.Recipe | None = None
    run: checkpoint.Run | None = None
    """Whose trained weights a forward pass is counted with; a step's costs do not depend on them."""

    def data(self, batch: int) -> tuple[Tensor, Tensor]:
        """Random inputs and classes."""
        return torch.rand(batch, *self.shape), torch.randint(self.classes, (batch,))


def subject(model: str, shape: str | None = None) -> Subject:
    """Find what to profile.

    Args:
        model: a recipe's name or .toml file, a run directory, or "package.module:factory", called without arguments;
            batch normalisation in its module uses running statistics, as a device does at batch 1.
        shape: of one input to a factory's module, such as "3x32x32".

    Raises:
        EdgepepError: if there is no such thing, or a factory's module cannot be converted.

    """
    if ":" in model and not model.endswith(".toml"):
        return _module(model, shape)
    if shape is not None:
        raise EdgepepError(f"--input is for a module of your own; {model} is a recipe, whose data have a shape.")
    if Path(model).suffix == ".py":
        raise EdgepepError(f"{model} is a file; name a function in it that makes a module, as package.module:factory.")
    run = checkpoint.read(model) if model not in models.names() and Path(model).is_dir() else None
    recipe = run.recipe if run else models.load(model)
    info = datasets.info(recipe.dataset)
    settings = recipe.settings(recipe.rule)

    def rule(network: Network, name: str, options: dict[str, object]) -> Rule:
        return (
            recipe.but(rules={name: options}).make_rule(network, name) if options else recipe.make_rule(network, name)
        )

    return Subject(
        recipe.name,
        info.shape,
        info.classes,
        settings.batch_size,
        settings.momentum,
        lambda name: recipe.under(name).build(),
        rule,
        recipe,
        run,
    )


def _module(model: str, shape: str | None) -> Subject:
    from edgepep.conversion import convert

    factory = plugins.external(model)
    if not callable(factory):
        raise EdgepepError(f"{model} is a {type(factory).__name__}; it must be a function that makes a module.")
    if shape is None:
        raise EdgepepError(f"say what {model} takes: --input 3x32x32, without the batch.")
    sides = shape.lower().split("x")
    if not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise EdgepepError(f"--input is {shape!r}; write the sides of one input, such as 3x32x32.")
    sizes = tuple(map(int, sides))
    try:
        made = factory()
    except Exception as error:  # whatever the user's factory raises
        raise EdgepepError(f"{model} cannot be called without arguments: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise EdgepepError(f"{model} makes a {type(made).__name__}; it must make a torch.nn.Module.")
    example = torch.rand(2, *sizes)
    network = convert(made, example, statistics="running")
    with torch.no_grad():
        classes = network.eval()(example).shape[1]

    def rule(network: Network, name: str, options: dict[str, object]) -> Rule:
        kind = rule_class(name)
        for option in options:
            if option not in rule_options(kind):
                raise EdgepepError(
                    f"the rule {name} has no option {option!r}. There are: {', '.join(rule_options(kind))}."
                )
        return kind(network, example, **options)

    return Subject(model, sizes, classes, 64, 0.9, lambda _: convert(factory(), example, statistics="running"), rule)
