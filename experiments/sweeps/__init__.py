"""Sweeps that finish: Hydra's ``-m``, jobs as processes here, under SLURM or on Ray, one ledger for all of them."""
