"""What a pretrained encoder is for: frozen features, and how good they are."""
