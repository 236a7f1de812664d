"""Verbs over trained models: ``python -m experiments.denoise …``. (Presets of the axes are in conf/experiment/.)"""
