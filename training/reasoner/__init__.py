"""Training of the reasoner: supervision, loss, data module, Lightning module."""
