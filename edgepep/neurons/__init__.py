"""What stands around synapses: neurons, spiking ones over time, the codes that go with them, repeatable dropout."""

from edgepep.neurons.alpha import Alpha
from edgepep.neurons.codes import Frames, Latency, Poisson, Rate, Repeat, Trace
from edgepep.neurons.dropout import Dropout
from edgepep.neurons.lapicque import Lapicque
from edgepep.neurons.leaky import Leaky
from edgepep.neurons.normalise import Normalise, normalised
from edgepep.neurons.population import Spiking
from edgepep.neurons.rleaky import RLeaky
from edgepep.neurons.synaptic import Synaptic

__all__ = [
    "Alpha",
    "Dropout",
    "Frames",
    "Lapicque",
    "Latency",
    "Leaky",
    "Normalise",
    "Poisson",
    "RLeaky",
    "Rate",
    "Repeat",
    "Spiking",
    "Synaptic",
    "Trace",
    "normalised",
]
