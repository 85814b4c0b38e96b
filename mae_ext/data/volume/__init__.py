"""CT and MRI volumes: reading scans and label maps, where they lie, and what their numbers mean."""
