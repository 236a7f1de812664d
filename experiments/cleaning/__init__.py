"""Files cleaned by a network: which there are, what was done, pictures and videos."""
