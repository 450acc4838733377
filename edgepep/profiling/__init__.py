"""What a training step costs: counted from the step itself, run once under observation."""

from edgepep.profiling.observe import Costs, observe, profile

__all__ = ["Costs", "observe", "profile"]
