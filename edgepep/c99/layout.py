"""Tables of layers and heads in C, and where their weights are: in RAM if they learn, else in the image, in flash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgepep.c99.blob import HEADER, layer_values, updates, values
from edgepep.c99.heads import Head
from edgepep.c99.preparation import Pair, Shape
from edgepep.c99.table import Stage


def learned(chain: Sequence[Stage], learns: bool) -> int:
    """Bytes of weights that are in RAM."""
    ram = in_ram(chain, learns)
    return sum(len(values(stage)) for stage in chain if stage.index in ram)


def in_ram(chain: Sequence[Stage], learns: bool) -> dict[int, int]:
    """Where each layer that learns begins among what is in RAM, in values."""
    found, at = {}, 0
    for stage in chain:
        if learns and stage.learns:
            found[stage.index] = at
            at += len(values(stage)) // 4
    return found


def parts(chain: Sequence[Stage], ram: Mapping[int, int]) -> list[str]:
    """ep_parts: by which ep_blob.c copies between RAM and the image."""
    lines, at = ["const ep_part ep_parts[] = {"], HEADER
    for stage in chain:
        size = len(values(stage)) // 4
        if size:
            where = f"learned + {ram[stage.index]}" if stage.index in ram else "0"
            lines.append(f"    {{{where}, {at}, {size}}},")
        at += size
    return [*lines, "    {0, 0, 0},", "};"]


def tables(chain: Sequence[Stage], ram: Mapping[int, int]) -> list[str]:
    """The pools, layers and heads of a network."""
    lines, at = [], HEADER
    for stage in chain:
        for place, pool in enumerate(stage.pools):
            if pool.kind != "round":
                lines.append(f"static const ep_pool pool_{stage.index}_{place} = {_pool(pool.shape, pool.window)};")
        if stage.weight is not None:
            base = f"learned + {ram[stage.index]}" if stage.index in ram else f"ep_image.values + {at}"
            lines += _layer(stage, base, updates(chain))
            if stage.head is not None and stage.index in ram:
                lines += _head(stage.index, stage.head, base, len(layer_values(stage)) // 4)
        at += len(values(stage)) // 4
    return lines


def _layer(stage: Stage, base: str, made: int) -> list[str]:
    assert stage.weight is not None
    scaled = int(stage.scale is not None)
    after = scaled + -(-stage.weight.numel() * stage.weight.element_size() // 4)
    weights = f"(const ep_weight *)({base} + {scaled})"
    pairs = ", ".join(f"{{{_list(pair)}}}" for pair in (stage.kernel, stage.stride, stage.pad, stage.dilation))
    return [
        f"static const ep_layer layer_{stage.index} = {{ /* {stage.name}: {stage.kind} */",
        f"    {_list(stage.in_shape)}, {_list(stage.out_shape)},",
        f"    {pairs}, {stage.groups}, {int(stage.relu)},",
        f"    {weights}, {f'{base} + {after}' if stage.bias is not None else '0'}, {base if scaled else '0'},",
        f"    0x{stage.seed:08x}u, {(stage.before - made) % 2**32}u}};",
    ]


def _head(index: int, head: Head, base: str, at: int) -> list[str]:
    weights = "0" if head.weights is None else f"{base} + {at + int(head.mirrors)}"
    numbers = ", ".join(map(number, (head.feedback.bound, head.rate, head.keep, head.strength)))
    return [
        f"static const ep_head head_{index} = {{",
        f"    {_pool(head.shape, head.window)}, {int(head.largest)}, {head.classes}, {head.size},",
        f"    {weights}, {f'{base} + {at}' if head.mirrors else '0'}, 0x{head.feedback.key:08x}u,",
        f"    {numbers}}};",
    ]


def _pool(shape: Shape, window: Pair) -> str:
    return f"{{{_list(shape)}, {{{_list(window)}}}}}"


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def number(value: float) -> str:
    """A float in C, to the last bit."""
    return f"{float(value).hex()}f"
