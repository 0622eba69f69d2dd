"""Training the bundled variant ``compact``: extractor, context encoder and reasoner, from photographs alone."""
