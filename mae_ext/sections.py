"""What the sections of a config are made of: strict models, numbers with bounds, and plug-ins by name."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]
Lengths = tuple[Positive, ...]


class Section(BaseModel):
    """Keys that belong together. A key that is none is an error."""

    # The strings below keys are in the JSON schema then, for editors and for the reference.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _unnamed(cls, values: Any) -> Any:
        """{max_pixels: 1} is about the plug-in that a key has by default, and whose arguments it keeps."""
        for key, default in ((key, f.default) for key, f in cls.model_fields.items() if isinstance(f.default, PlugIn)):
            if isinstance(values, dict) and isinstance(section := values.get(key), dict) and "name" not in section:
                values = {**values, key: {**default.model_dump(), **section}}
        return values


class PlugIn(BaseModel):
    """{name: tube, ratio: 0.9}, or just a name. Everything but the name is an argument of the plug-in."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Named = Annotated[PlugIn, BeforeValidator(_named)]


def grid_of(size: tuple[int, ...], patch: tuple[int, ...]) -> tuple[int, ...]:
    """size / patch, axis by axis. Raises ValueError naming the axis that does not divide.

    >>> from mae_ext import grid_of
    >>> grid_of((16, 224, 224), (2, 16, 16))  # a clip of 16 frames
    (8, 14, 14)
    """
    if len(size) != len(patch):
        raise ValueError(f"size {list(size)} has {len(size)} axes and patch {list(patch)} has {len(patch)}")
    for axis, (s, p) in enumerate(zip(size, patch, strict=True)):
        if p < 1 or s < 1 or s % p:
            raise ValueError(f"size {list(size)} is not a multiple of patch {list(patch)} on axis {axis} ({s} / {p})")
    return tuple(s // p for s, p in zip(size, patch, strict=True))
