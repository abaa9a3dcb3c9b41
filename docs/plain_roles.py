"""For mkdocstrings: roles in docstrings, such as ``:func:`~masksearch.prune```, become code: ``prune``."""

import re

from griffe import Extension, Object

_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc|obj):`(?P<tilde>~?)(?P<name>[\w.]+)`")


def _code(role: re.Match[str]) -> str:
    return f"`{role['name'].rpartition('.')[2] if role['tilde'] else role['name']}`"


class PlainRoles(Extension):
    """Rewrites the docstring of each object when it is loaded."""

    def on_object(self, *, obj: Object, **kwargs: object) -> None:
        """Replace the roles in the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(_code, obj.docstring.value)
