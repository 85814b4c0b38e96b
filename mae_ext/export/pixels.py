"""What other programs' decoders answer: the pixels of a patch, and nothing beside them."""

from dataclasses import replace

from mae_ext import plugins
from mae_ext.interop.origin import Origin
from mae_ext.model.beside import Beside
from mae_ext.sections import PlugIn


def of_pixels(origin: Origin, name: str) -> tuple[Origin, tuple[str, ...]]:
    """The origin as another program can have it, and what to say of it.

    Of a decoder that answers something beside pixels, the pixels go along; one that answers none of them stays behind.
    """
    modality, where = origin.config.modalities[name], f"modalities.{name}"
    shape, spec = {"patch": modality.patch, "channels": modality.channels}, modality.target
    target = plugins.targets.build(spec.name, spec.arguments, f"{where}.target", **shape)
    if not origin.decodes or not isinstance(target, Beside):
        return origin, ()
    predict, said = f"{where}.predict.", f"its decoder answers '{spec.name}'"
    if target.pixel is None:
        own = ("decoder.", predict, f"{where}.decoder_position.")
        rest = {key: value for key, value in origin.weights.items() if not key.startswith(own)}
        return replace(origin, weights=rest, decodes=False), (f"{said}, no pixels, and stays behind",)
    cut = {k: v[: target.pixel.pix] if k.startswith(predict) else v for k, v in origin.weights.items()}
    settings = {"name": "pixel", "normalize": target.pixel.normalize, "floor": target.pixel.floor}
    plain = modality.model_copy(update={"target": PlugIn.model_validate(settings)})
    config = origin.config.model_copy(update={"modalities": {**origin.config.modalities, name: plain}})
    return replace(origin, weights=cut, config=config), (f"{said} beside pixels; the pixels alone go along",)
