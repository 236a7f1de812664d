"""What is raised of images that cannot be used."""


class DataError(ValueError):
    """Images that are missing, damaged, or do not fit what was asked of them. The message names them and the remedy."""
