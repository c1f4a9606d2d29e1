"""The public surface: every public name is there on purpose, documented, typed and importable."""

from __future__ import annotations

import importlib
import inspect
from importlib import metadata, resources
from pathlib import Path
from types import ModuleType

import pytest

import kmatrix as km
from kmatrix import _errors

SRC = Path(__file__).parents[1] / "src"
PACKAGES = sorted(
    ".".join(init.parent.relative_to(SRC).parts)
    for init in SRC.rglob("__init__.py")
    if not any(part.startswith("_") for part in init.parent.relative_to(SRC).parts)
)


def public_names(module: ModuleType) -> list[str]:
    """What a module offers: ``__all__``, or every name without an underscore that is not a module."""
    named = getattr(module, "__all__", None)
    if named is not None:
        return list(named)
    return [name for name, value in vars(module).items() if is_offered(name, value)]


def is_offered(name: str, value: object) -> bool:
    return not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"


def public_objects() -> dict[str, object]:
    modules = (importlib.import_module(package) for package in PACKAGES)
    pairs = ((f"{m.__name__}.{name}", getattr(m, name)) for m in modules for name in public_names(m))
    return {
        name: value
        for name, value in pairs
        if inspect.isfunction(value) or (inspect.isclass(value) and value.__module__.startswith("kmatrix"))
    }


OBJECTS = public_objects()


@pytest.mark.parametrize("package", PACKAGES)
def test_all_lists_exactly_what_the_package_offers(package: str) -> None:
    module = importlib.import_module(package)
    if hasattr(module, "__all__"):
        offered = [name for name, value in vars(module).items() if is_offered(name, value)]
        modules = [name for name in module.__all__ if inspect.ismodule(getattr(module, name))]
        assert sorted(module.__all__) == sorted({*offered, *modules})


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_say_what_lives_in_them(package: str) -> None:
    assert importlib.import_module(package).__doc__


@pytest.mark.parametrize("package", PACKAGES)
def test_no_function_hides_a_package(package: str) -> None:
    # `import a.b as c` looks the name up in its parent, where a function of the same name would be found instead.
    parent, _, name = package.rpartition(".")
    assert not parent or inspect.ismodule(getattr(importlib.import_module(parent), name))


@pytest.mark.parametrize("name", OBJECTS)
def test_public_names_are_documented(name: str) -> None:
    doc = inspect.getdoc(OBJECTS[name])
    made_up_by_dataclass = name.rpartition(".")[2] + "("
    assert doc and not doc.startswith(made_up_by_dataclass)


@pytest.mark.parametrize("name", [name for name, value in OBJECTS.items() if inspect.isfunction(value)])
def test_public_functions_are_fully_annotated(name: str) -> None:
    signature = inspect.signature(OBJECTS[name])  # type: ignore[arg-type]
    assert signature.return_annotation is not inspect.Signature.empty
    bare = [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty]
    assert bare == []


@pytest.mark.parametrize("name", [n for n in vars(_errors) if n.endswith("Error") and n != "KMatrixError"])
def test_errors_are_both_ours_and_of_a_builtin_kind(name: str) -> None:
    error = vars(_errors)[name]
    assert issubclass(error, _errors.KMatrixError)
    assert issubclass(error, (ValueError, TypeError, RuntimeError))


def test_version_is_the_installed_one() -> None:
    assert km.__version__ == metadata.version("kmatrix")


def test_package_is_marked_as_typed() -> None:
    assert (resources.files("kmatrix") / "py.typed").is_file()
