"""What files there are: folders, lists, archives, folds; what is passed over, and what it is for."""
