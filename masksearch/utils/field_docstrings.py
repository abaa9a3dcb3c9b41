"""Docstrings below fields, read from source text, so that help needs no import of PyTorch."""

import ast
from collections.abc import Iterator
from itertools import pairwise


def field_texts(source: str) -> Iterator[tuple[str, ast.expr | None, str]]:
    """Yield (name, default, docstring) of every annotated field with a docstring in a Python source text."""
    tree = ast.parse(source)
    for body in (tree.body, *(item.body for item in tree.body if isinstance(item, ast.ClassDef))):
        for item, text in pairwise(body):
            match item, text:
                case ast.AnnAssign(target=ast.Name(id=name), value=default), ast.Expr(
                    value=ast.Constant(value=str(docstring))
                ):
                    yield name, default, docstring
