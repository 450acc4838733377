"""What a training step costs, counted from the step itself; and what a forward pass does on real inputs."""

from edgepep.profiling.observe import Costs, observe, profile
from edgepep.profiling.sparsity import LayerWorkload, Workload, workload

__all__ = ["Costs", "LayerWorkload", "Workload", "observe", "profile", "workload"]
