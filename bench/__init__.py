"""Benchmarks: everything against a peer in the same run. So far there is the loader; the runs are to follow."""
