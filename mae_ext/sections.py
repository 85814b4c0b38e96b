"""What the sections of a config are made of: strict models, numbers with bounds, and plug-ins by name."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]
Lengths = tuple[Positive, ...]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _unnamed(cls, values: Any) -> Any:
        """{max_pixels: 1} is about the plug-in that a key has by default, and whose arguments it keeps."""
        for key, default in ((key, f.default) for key, f in cls.model_fields.items() if isinstance(f.default, PlugIn)):
            if isinstance(values, dict) and isinstance(given := values.get(key), dict) and "name" not in given:
                values = {**values, key: {**default.model_dump(), **given}}
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
