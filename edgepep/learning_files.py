"""The training step as ONNX graphs that any runtime of inference can run, and the state that they learn in.

Three files: `training_step.onnx` takes x, target, learning_rate and a state, and gives loss, logits and the new state;
`inference.onnx` takes x and the state; `state.safetensors` holds the state. A fourth, `training_steps.onnx`, runs
several minibatches in one Scan.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edgepep.errors import ExportError
from edgepep.learning_graph import Answer, Settings, TrainingStep
from edgepep.learning_state import VERSION, load_state, state_bytes
from edgepep.onnx_files import Runner, free, trace_onnx
from edgepep.rule import Rule

__all__ = ["STATE", "VERSION", "Learned", "compare", "load_state", "looped", "save", "state_bytes"]

STEP, STEPS, INFERENCE, STATE = "training_step.onnx", "training_steps.onnx", "inference.onnx", "state.safetensors"
NEW = "new."
"""Begins the name of an output that is the next value of the input called by the rest."""
_BODY = "step."
COMPARED = 20
"""Steps after which the files and torch are compared."""
TOLERANCE = 0.02
"""Largest norm of the difference between them then, as a share of the norm of what was learned: where numbers are
rounded to few bits, a last bit may decide for another code."""


class Learned(NamedTuple):
    """How the files agree with torch after some steps from the same state on the same samples."""

    steps: int
    samples: int
    """In each step."""
    loss_difference: float
    """Largest, over the steps."""
    weight_difference: float
    """Largest, after the last step; of codes, in codes."""
    relative: float
    """Norm of the difference over the norm of all that was learned."""

    def __str__(self) -> str:
        return (
            f"after {self.steps} steps of {self.samples} samples: |difference| of the state at most "
            f"{self.weight_difference:.2g}, {self.relative:.2g} of all that was learned; of the loss at most "
            f"{self.loss_difference:.2g}"
        )


def save(
    rule: Rule,
    settings: Settings,
    learning_rate: float,
    directory: Path | str,
    samples: tuple[Tensor, Tensor],
    steps: int | None = None,
) -> Learned:
    """Write the files, run them beside torch on real samples, and keep how they agree in their metadata.

    Args:
        rule: trained or not; it is not changed.
        settings: of the optimizer; momentum and decay are constants of the graph.
        learning_rate: what a device begins with; kept in the metadata, for the rate is an input.
        directory: where to write; made if it is not there.
        samples: inputs [n, ...] and class indices [n], real ones.
        steps: minibatches of a further graph that runs them in one Scan; None writes none.

    Raises:
        ExportError: if torch cannot write the rule's step, too few samples are given, the files disagree with torch, or
            cannot be written.

    """
    if steps is not None and steps < 1:
        raise ExportError(f"steps is {steps}; it must be at least 1.")
    size = len(samples[1]) // COMPARED
    if size < 2:
        raise ExportError(f"{len(samples[1])} samples; {COMPARED} steps of 2 at least are compared.")
    step = TrainingStep(rule, settings, (samples[0][:2].cpu(), samples[1][:2].cpu()))
    directory = Path(directory)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in (STEP, INFERENCE, STATE)}
        _trace(step, samples, files)
        learned = compare(step, files[STEP], samples, learning_rate)
        about = _about(rule, settings, learning_rate, learned)
        for name in (STEP, INFERENCE):
            _finish(files[name], about)
        if steps is not None:
            files[STEPS] = Path(folder) / STEPS
            looped(files[STEP], files[STEPS], list(step.state), steps)
        files[STATE].write_bytes(state_bytes(step.state))
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for name, written in files.items():
                shutil.copyfile(written, directory / f"{name}.new")
                (directory / f"{name}.new").replace(directory / name)
        except OSError as error:
            raise ExportError(f"cannot write {directory}: {error.strerror or error}.") from error
    return learned


def _trace(step: TrainingStep, samples: tuple[Tensor, Tensor], files: Mapping[str, Path]) -> None:
    """Write the two graphs."""
    x, target = (part[:4].cpu() for part in samples)
    batch, state = free("batch"), list(step.state.values())
    names, new = ("x", "target", "learning_rate", *step.state), [NEW + name for name in step.state]
    still: list[dict[int, Any]] = [{} for _ in state]
    with torch.no_grad():
        given = (x, target, torch.tensor(0.1), *state)
        sizes = [{0: batch}, {0: batch}, {}, *still]
        try:
            trace_onnx(step, given, files[STEP], names, ("loss", "logits", *new), sizes)
        except ExportError as error:
            name = type(step.rule).__name__
            raise ExportError(
                f"the training step of {name} cannot be written as a graph of forward operations: {error} Rules "
                "without autograd can, such as pepita, dfa and feedback_alignment."
            ) from error
        answer = Answer(step)
        read = [step.state[name] for name in answer.names]
        sizes = [{0: batch}, *still[: len(read)]]
        trace_onnx(answer, (x, *read), files[INFERENCE], ("x", *answer.names), sizes=sizes)


@torch.no_grad()
def compare(step: TrainingStep, path: Path, samples: tuple[Tensor, Tensor], learning_rate: float) -> Learned:
    """Learn for COMPARED steps in torch and in onnxruntime, from the same state.

    Raises:
        ExportError: if the two part by more than rounding explains.

    """
    run, rate = Runner(str(path)), torch.tensor(learning_rate)
    size = len(samples[1]) // COMPARED
    ours, theirs = dict(step.state), dict(step.state)
    apart = 0.0
    for x, target in zip(*(part[: COMPARED * size].cpu().split(size) for part in samples), strict=True):
        loss, _, *new = step(x, target, rate, *ours.values())
        ours = dict(zip(ours, new, strict=True))
        other, _, *after = run({"x": x, "target": target, "learning_rate": rate, **theirs})
        theirs = dict(zip(theirs, after, strict=True))
        apart = max(apart, float((loss - other).abs()))
    off = {name: ours[name].double() - theirs[name].double() for name in ours}
    counts = (torch.int32, torch.int64)  # of steps
    learned_here = [name for name, value in ours.items() if value.dtype not in counts]
    moved = sum(float((ours[n].double() - step.state[n].double()).square().sum()) for n in learned_here) ** 0.5
    relative = sum(float(d.square().sum()) for d in off.values()) ** 0.5 / (moved or 1.0)
    learned = Learned(COMPARED, size, apart, max(float(d.abs().max()) for d in off.values()), relative)
    if not relative <= TOLERANCE:
        raise ExportError(f"the training step does not agree with torch: {learned}; allowed: {TOLERANCE:g}.")
    return learned


def _about(rule: Rule, settings: Settings, learning_rate: float, learned: Learned) -> dict[str, object]:
    own = {"version": VERSION, "rule": type(rule).__module__.rpartition(".")[2], "learning_rate": learning_rate}
    return own | {"momentum": settings.momentum, "weight_decay": settings.weight_decay, **learned._asdict()}


def _finish(path: Path, about: Mapping[str, object]) -> None:
    """Take out inputs that nothing reads and the tracer's notes, and say in the metadata what the file is."""
    import onnx

    model = onnx.load(path)
    read = {name for node in model.graph.node for name in node.input} | {out.name for out in model.graph.output}
    for given in list(model.graph.input):
        if given.name not in read and given.name != "x":
            model.graph.input.remove(given)
    for part in (model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
    onnx.helper.set_model_props(model, {f"edgepep.{key}": str(value) for key, value in about.items()})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def looped(path: Path, out: Path, state: Sequence[str], steps: int) -> None:
    """Write a graph whose one node is a Scan of a step's graph over minibatches.

    Inputs are those of a step, x and target with one more axis in front: [steps, batch, ...]; so are loss and logits.
    """
    import onnx
    from onnx import helper

    model = onnx.load(path)
    inner = model.graph
    given, made = ({value.name: value for value in values} for values in (inner.input, inner.output))
    kept = [name for name in state if name in given]
    carried, news = [given[name] for name in kept], [made[NEW + name] for name in kept]
    body = onnx.GraphProto(name="step", node=inner.node)
    body.input.extend([*carried, given["x"], given["target"]])
    body.output.extend([*news, made["loss"], made["logits"]])
    _rename(body, {value.name for value in body.input} | {name for node in body.node for name in node.output})
    outputs = [value.name for value in (*news, made["loss"], made["logits"])]
    scan = helper.make_node("Scan", [*kept, "x", "target"], outputs, body=body, num_scan_inputs=2)
    inputs = [_stacked(given["x"], steps), _stacked(given["target"], steps), given["learning_rate"], *carried]
    answers = [_stacked(made["loss"], steps), _stacked(made["logits"], steps), *news]
    model.graph.CopyFrom(helper.make_graph([scan], "steps", inputs, answers, list(inner.initializer)))
    onnx.checker.check_model(model)
    onnx.save(model, out)


def _rename(graph: Any, own: set[str]) -> None:
    """Give the names of a graph's own another beginning, in graphs within it too: no name may be another's outside."""
    for value in (*graph.input, *graph.output):
        value.name = _BODY + value.name if value.name in own else value.name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [_BODY + name if name in own else name for name in names]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, own)


def _stacked(value: Any, steps: int) -> Any:
    """The type of some values of one type, one after the other."""
    import onnx

    more = onnx.ValueInfoProto()
    more.CopyFrom(value)
    shape = more.type.tensor_type.shape
    axes = list(shape.dim)
    del shape.dim[:]
    shape.dim.add(dim_value=steps)
    shape.dim.extend(axes)
    return more
