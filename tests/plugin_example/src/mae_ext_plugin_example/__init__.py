"""An embedder and a masker for mae_ext, in a package of their own."""
