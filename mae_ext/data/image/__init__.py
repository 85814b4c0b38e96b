"""Pictures: reading them, their label maps and boxes."""
