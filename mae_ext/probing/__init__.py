"""What features are worth: labelled data, classifiers on frozen features, scores with intervals."""
