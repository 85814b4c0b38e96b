"""How samples come: the loader and its workers, the sandbox, the cache, preparing and inspecting."""
