"""Whether pretraining is worth it, on somebody's own data: arms beside each other, at several numbers of labels."""
