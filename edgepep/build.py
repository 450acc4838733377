"""From a recipe's words to modules."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgepep import datasets, plugins, rules, spiking
from edgepep.answering import neurons
from edgepep.composite import PerLayer
from edgepep.errors import EdgepepError, RecipeError
from edgepep.integer_weights import REACH, with_integer_weights
from edgepep.local import transports
from edgepep.network import Layer, Network
from edgepep.rule import Rule
from edgepep.synapses import Quantiser, conv, initialise_, linear, preparation, same_pads
from edgepep.time_axis import each_step

if TYPE_CHECKING:
    from edgepep.models import Recipe
    from edgepep.tables import LayerTable

MOST_WEIGHTS, MOST_VALUES, MOST_MACS = 2**28, 2**24, 2**36
"""Of a recipe's network, of one layer's answer to a sample at one time step, and of one layer's work on a sample."""


def build(recipe: Recipe, seed: int, device: str) -> Network:
    """Make a recipe's network, its initial weights determined by the seed.

    Raises:
        RecipeError: if a layer cannot take what the layer before it gives; the message names the layer and both.

    """
    if not -(2**63) <= seed < 2**63:
        raise EdgepepError(f"the seed is {seed}; it must be a whole number of 64 bits.")
    info = datasets.info(recipe.dataset)
    encode = spiking.encoder(recipe.time, seed) if recipe.time else None
    layers: list[Layer] = []
    x = torch.zeros(2, *info.shape)
    posts: list[Tensor] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for i, table in enumerate(recipe.network.layers):
            h = _read(recipe, i, table, posts) if i else encode(x) if encode else x
            layer = _layer(recipe, i, table, info.classes, h, seed)
            layer.channels_last = True
            try:
                posts.append(layer.eval()(h).post)
            except RuntimeError as error:
                raise _impossible(recipe, i, h, str(error).splitlines()[0]) from error
            layers.append(layer.train())
            _refuse_large(recipe, i, h, sum(p.numel() for made in layers for p in made.parameters()))
    if tuple(posts[-1].shape) != (2, info.classes):
        raise _impossible(recipe, len(layers) - 1, h, f"the output must be {info.classes} values, one a class")
    sources = [table.reads for table in recipe.network.layers]
    network = Network(layers, encode, sources, (recipe.time.window if recipe.time else None) or "auto").to(device)
    network.freeze(*recipe.network.frozen)
    return network


def make_rule(recipe: Recipe, network: Network, rule: str, seed: int) -> Rule:
    """Make a rule for a network, with the recipe's options for it.

    Raises:
        UnknownName: if there is no such rule.
        RecipeError: if the recipe gives the rule an option that it does not have.

    """
    where = next(network.parameters()).device
    example = torch.zeros(2, *datasets.info(recipe.dataset).shape, device=where)
    if recipe.head is None:
        return _made(recipe, rule, seed, network, example).to(where)
    names = [layer.name for layer in network.chain if transports(layer.synapses)]
    count = len(names) - recipe.head.layers
    if count < 1:
        raise RecipeError(f"{recipe.name}: head.layers is {recipe.head.layers}; the network has {len(names)} layers.")
    body, head = ",".join(names[:count]), ",".join(names[count:])
    parts = {body: partial(_made, recipe, rule, seed), head: partial(_made, recipe, recipe.head.rule, seed)}
    return PerLayer(network, example, parts).to(where)


def _made(recipe: Recipe, rule: str, seed: int, network: Network, example: Tensor) -> Rule:
    kind = rule_class(rule)
    options: dict[str, Any] = recipe.options(rule)
    known = rule_options(kind)
    for key in options:
        if key not in known:
            allowed = ", ".join([*sorted(known), "training", "network", "reported"])
            raise RecipeError(f"{recipe.name}: rules.{rule}.{key}: the rule has no such option. Allowed: {allowed}.")
    if "seed" in known:
        options.setdefault("seed", seed)
    try:
        return kind(network, example, **options)
    except EdgepepError:
        raise
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        said = (str(error).splitlines() or ["?"])[0]
        raise RecipeError(f"{recipe.name}: rules.{rule}: {said} (given: {options})") from error


def rule_class(name: str) -> type[Rule]:
    """Class of a rule, from its name or from "package.module:Name".

    Raises:
        UnknownName: if there is no such rule.

    """
    found = plugins.external(name) if ":" in name else plugins.class_in(plugins.module_in(rules, "rule", name), Rule)
    if not (isinstance(found, type) and issubclass(found, Rule)):
        raise EdgepepError(f"{name} is not a rule: it must be a subclass of edgepep.Rule.")
    return found


def rule_options(kind: type[Rule]) -> list[str]:
    """Names of a rule's keyword options, those that it hands on to its base among them."""
    names: list[str] = []
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base).parameters.values()
        names += [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return names


def _read(recipe: Recipe, i: int, table: LayerTable, posts: list[Tensor]) -> Tensor:
    """What layer i > 0 reads: the sum of some posts."""
    reads = [i - 1] if table.reads is None else table.reads
    if not reads or max(reads) >= i:
        raise RecipeError(f"{recipe.name}: network.layers[{i}]: reads is {reads}; it reads layers from 0 to {i - 1}.")
    if len(set(reads)) < len(reads):
        raise RecipeError(f"{recipe.name}: network.layers[{i}]: reads is {reads}; it names a layer twice.")
    shapes = [list(posts[s].shape[1:]) for s in reads]
    if any(shape != shapes[0] for shape in shapes):
        raise RecipeError(
            f"{recipe.name}: network.layers[{i}]: reads {reads}, of shapes {shapes}; sums need one shape."
        )
    return sum((posts[s] for s in reads[1:]), posts[reads[0]])


def _layer(recipe: Recipe, i: int, table: LayerTable, classes: int, h: Tensor, seed: int) -> Layer:
    last = i == len(recipe.network.layers) - 1
    over_time = recipe.time is not None and not last
    prepare = nn.Sequential(*_preparation(recipe, i, table, last))
    try:
        pre = each_step(prepare.eval(), h) if over_time else prepare.eval()(h)
    except RuntimeError as error:
        raise _impossible(recipe, i, h, str(error).splitlines()[0]) from error
    synapses = _synapses(recipe, i, table, classes, pre, over_time)
    if table.synapses != "none":
        initialise_(synapses, recipe.network.initialisation)
        if recipe.precision and recipe.precision.weights == "integer":
            reach = recipe.precision.output_reach or 16.0 if last else recipe.precision.reach or REACH
            synapses = with_integer_weights(synapses, recipe.precision.weight_bits, seed=seed, reach=reach)
    current = each_step(synapses, pre) if over_time else synapses(pre)
    return Layer(
        synapses,
        neurons(recipe, table, current, last=last, first=i == 0, seed=seed),
        prepare if len(prepare) else None,
        spiking.decoder(recipe.time) if recipe.time and over_time else None,
    )


def _preparation(recipe: Recipe, i: int, table: LayerTable, last: bool) -> list[nn.Module]:
    modules = [preparation(word) for word in table.prepare]
    if recipe.time and last:
        return [spiking.decoder(recipe.time), *modules]  # linear: it may read one value rather than every step
    if recipe.precision and not recipe.time:  # spikes need no rounding
        bits = recipe.precision.activation_bits if i else recipe.precision.input_bits
        modules.append(Quantiser(bits, recipe.precision.scales["power_of_two"]))
    return modules


def _synapses(recipe: Recipe, i: int, table: LayerTable, classes: int, pre: Tensor, over_time: bool) -> nn.Module:
    shape = tuple(pre.shape[2 if over_time else 1 :])
    features = classes if table.features == "classes" else table.features
    if table.synapses == "none":
        return nn.Identity()
    shadow = recipe.precision is not None and recipe.precision.weights == "shadow"
    bias, bits = recipe.network.bias, recipe.precision.weight_bits if recipe.precision and shadow else None
    scales = recipe.precision.scales if recipe.precision else {}
    if table.synapses == "linear":
        if len(shape) != 1:
            raise _impossible(
                recipe, i, pre, f'linear synapses read one axis, not {list(shape)}; prepare = ["flatten"]'
            )
        _refuse_large(recipe, i, pre, shape[0] * features)
        return linear(shape[0], features, bias=bias, bits=bits, **scales)
    if len(shape) != 3:
        raise _impossible(recipe, i, pre, f"conv synapses read [channels, height, width], not {list(shape)}")
    kernel, stride, padding = _pair(table.kernel), _pair(table.stride), table.padding
    _refuse_large_maps(recipe, i, table, pre, features)
    shaped: dict[str, Any] = {"stride": stride, "dilation": table.dilation, "groups": table.groups}
    if padding == "same":
        if table.dilation > 1 or bits is not None:
            raise _impossible(recipe, i, pre, 'padding = "same" is for plain weights without dilation')
        left, right, above, below = same_pads((shape[1], shape[2]), kernel, stride)
        even = left == right and above == below
        shaped |= {"padding": (above, left)} if even else {"pads": (left, right, above, below)}
    else:
        shaped["padding"] = padding
        for size, k in zip(shape[1:], kernel, strict=True):
            reach = table.dilation * (k - 1) + 1
            if size + 2 * padding < reach:
                raise _impossible(recipe, i, pre, f"a kernel that reaches over {reach} does not fit {list(shape[1:])}")
    if shape[0] % table.groups or features % table.groups:
        raise _impossible(recipe, i, pre, f"{table.groups} groups do not divide {shape[0]} and {features} channels")
    return conv(shape[0], features, kernel, bias=bias, bits=bits, **shaped, **scales)


def _refuse_large(recipe: Recipe, i: int, h: Tensor, weights: int, values: int = 0, macs: int = 0) -> None:
    """Raise RecipeError before something is made that no machine should be asked for by a file."""
    counts = (("weights", weights, MOST_WEIGHTS), ("values a sample", values, MOST_VALUES), ("MACs", macs, MOST_MACS))
    for name, count, most in counts:
        if count > most:
            raise _impossible(recipe, i, h, f"{count} {name}; a recipe may have {most}")


def _refuse_large_maps(recipe: Recipe, i: int, table: LayerTable, pre: Tensor, features: int) -> None:
    kernel, padding = _pair(table.kernel), 0 if table.padding == "same" else table.padding
    sides = [size + 2 * padding for size in pre.shape[-2:]]
    positions = math.prod(-(-side // step) for side, step in zip(sides, _pair(table.stride), strict=True))
    weights = max(1, pre.shape[-3] // table.groups) * features * math.prod(kernel)
    _refuse_large(recipe, i, pre, weights, max(features * positions, math.prod(sides)), weights * positions)


def _pair(value: int | list[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _impossible(recipe: Recipe, i: int, h: Tensor, why: str) -> RecipeError:
    return RecipeError(f"{recipe.name}: network.layers[{i}]: {why} (it is given {list(h.shape)}, batch of 2).")
