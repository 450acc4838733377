"""Things found by name: the name of the file is the name of the thing."""

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from edgepep.errors import UnknownName


def in_package(package: ModuleType) -> list[str]:
    """Names of a package's public modules, found without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def in_folder(folder: Path, suffix: str) -> list[str]:
    """Names of a folder's public files that end in suffix."""
    return sorted(path.stem for path in folder.glob(f"*{suffix}") if not path.name.startswith("_"))


def check(kind: str, name: str, known: Iterable[str]) -> str:
    """Return name if it is known; else raise UnknownName with what there is and what may have been meant."""
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, 1)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    raise UnknownName(f"no {kind} called {name!r}{meant} There are: {', '.join(known)}.")


def module_in(package: ModuleType, kind: str, name: str) -> ModuleType:
    """Import the module called name of a package, or raise UnknownName."""
    return importlib.import_module(f"{package.__name__}.{check(kind, name, in_package(package))}")


def module_at(path: Path) -> ModuleType:
    """Import one file from its path, under a name that cannot hide an installed package."""
    spec = importlib.util.spec_from_file_location(f"edgepep_{path.parent.name}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UnknownName(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def class_in(module: ModuleType, base: type) -> type:
    """The one public subclass of base that a module defines."""
    found = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]
    if len(found) != 1:
        raise UnknownName(f"{module.__name__} should define one public {base.__name__}, but defines {len(found)}.")
    return found[0]


def external(name: str) -> object:
    """The object that "package.module:Name" names, for things kept outside edgepep."""
    module, _, attribute = name.partition(":")
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownName(f"cannot load {name!r}: {error}. Write it as package.module:Name.") from error
    return found
