"""``python -m experiments.report PATH``: results, pictures and their origin on one page, without loading a model."""
