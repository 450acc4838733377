"""Where models/, export/ and results/ are: inside the package in a wheel, beside it in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
_INSTALLED = (_PACKAGE / "share").is_dir()
SHARE = _PACKAGE / "share" if _INSTALLED else _PACKAGE.parent
MODELS = SHARE / "models"
EXPORT = SHARE / "export"
FIGURES = SHARE / "docs" / "figures"
"""Of sets, which the page of results shows; a wheel has none."""
SETS = SHARE / "results" / "sets"
DEVICE = SHARE / "results" / "device.json"
"""What exports did on emulated boards: `python -m benchmarks.device`."""
RUNS = (Path() if _INSTALLED else SHARE) / "results" / "runs"
"""Of a checkout; a wheel has no results, and keeps new ones where the user is."""
