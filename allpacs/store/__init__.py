"""Spool of Part 10 files, and the index of studies, instances, findings, artefacts and deliveries.

Open it with `allpacs.store.store.Store.open`; times are UTC seconds since the epoch, as floats, everywhere.
"""
