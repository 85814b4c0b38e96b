"""Pictures of samples: rows, boxes, planes."""
