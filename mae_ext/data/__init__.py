"""From files to batches: sources list, readers decode, the plan orders, the loader distrusts."""
