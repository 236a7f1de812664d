"""How networks learn: one way of learning per file."""
