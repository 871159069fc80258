"""Dask workers on this machine and others."""
