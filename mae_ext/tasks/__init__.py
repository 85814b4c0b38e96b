"""What an encoder is fine-tuned for: one folder a task."""
