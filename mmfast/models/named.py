"""NamedModules: submodules by name, where any name a data set gives a modality will do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

PREFIX = "of_"  # keeps names such as "items" or "type" apart from a module's own attributes


class NamedModules(nn.Module):
    """What nn.ModuleDict is, without its reserved names."""

    def __init__(self, modules: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        for name, module in (modules or {}).items():
            self[name] = module

    def __setitem__(self, name: str, module: nn.Module) -> None:
        self.add_module(PREFIX + name, module)

    def __getitem__(self, name: str) -> nn.Module:
        return self._modules[PREFIX + name]

    def __contains__(self, name: str) -> bool:
        return PREFIX + name in self._modules

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(PREFIX) for name in self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def items(self) -> Iterator[tuple[str, nn.Module]]:
        """Return (name, module) pairs in the order of entry."""
        return ((name, self[name]) for name in self)
