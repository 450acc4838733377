"""Where models/ and export/ are: inside the package in a wheel, beside it in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
SHARE = _PACKAGE / "share" if (_PACKAGE / "share").is_dir() else _PACKAGE.parent
MODELS = SHARE / "models"
EXPORT = SHARE / "export"
