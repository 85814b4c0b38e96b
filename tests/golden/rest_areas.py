"""The areas of the wide net: importing this registers them all."""

from golden import rest_config, rest_engine, rest_model, rest_surface

LOADED = (rest_surface, rest_config, rest_model, rest_engine)
