"""What can be named in a config: our own, and what other installed packages bring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from rolora.core.errors import BadInput

Kind = TypeVar("Kind")


class Catalogue(Mapping[str, type[Kind]]):
    """Classes by name: ours, then those that installed packages declare as entry points.

    A package of another's is imported when its name is asked for, and only then; a config holds
    names, never paths or code. A name of ours is always ours.

    Args:
        group: of entry points, such as ``rolora.methods``.
        base: what every class must be derived from.
        own: ours.
    """

    def __init__(self, group: str, base: type[Kind], own: Mapping[str, type[Kind]]):
        self.group, self.base, self.own = group, base, dict(own)

    @cached_property
    def others(self) -> Mapping[str, EntryPoint]:
        """Those of other packages that are not called as one of ours, by name."""
        found = sorted(entry_points(group=self.group), key=lambda point: point.name)
        return {point.name: point for point in found if point.name not in self.own}

    def __getitem__(self, name: str) -> type[Kind]:
        """The class called `name`.

        Raises:
            KeyError: there is none.
            BadInput: another package's cannot be loaded, or is no such class.
        """
        return self.own[name] if name in self.own else self._loaded(self.others[name])

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self.others

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from self.others

    def __len__(self) -> int:
        return len(self.own) + len(self.others)

    def _loaded(self, point: EntryPoint) -> type[Kind]:
        package = point.dist.name if point.dist is not None else point.module
        where = f"{self.group}: {point.name!r} of the package {package}"
        try:
            found = point.load()
        except Exception as error:  # whatever another's package raises on import
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise BadInput(
                f"{where} cannot be imported ({reason}); mend or uninstall it"
            ) from error
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise BadInput(
                f"{where} is {point.value}, which is no class derived from "
                f"{self.base.__module__}.{self.base.__qualname__}"
            )
        return found
