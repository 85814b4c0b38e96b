"""The masked autoencoder: grid, embed, position, mask, transformer, target, and `MAE` that joins them."""
