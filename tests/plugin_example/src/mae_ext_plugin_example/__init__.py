"""An embedder, a masker and a task for mae_ext, in a package of their own."""
