"""CNNSurvivalLib: from a CT and a tumour mask to a survival curve.

The library that the Slicer module and the command line share. It needs numpy, scipy and the standard
library; ``slicer``, ``vtk`` and ``torch`` are imported only inside the functions that use them.

Modules, in the order in which data flows:

- ``slices``      CT and mask -> ranked, masked 140 x 140 slices
- ``engines``     slices -> hazards (NumPy built in, PyTorch optional)
- ``hazards``     hazards <-> survival: targets, likelihood, S(t), median, restricted mean
- ``prediction``  all of the above for one patient, with spread, warnings and provenance
- ``bundle``      the trained model on disk: weights and everything that must be known to use them
- ``network``     the paper's CNN in PyTorch (training, and the reference for the engines)
- ``scene``       the only file that knows MRML
- ``errors``, ``files``  what a user's mistake looks like; writing files whole or not at all
"""

__version__ = "0.1.0"
