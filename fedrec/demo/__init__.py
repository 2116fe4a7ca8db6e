"""The whole story on real datasites: what `fedrec demo`, `make lab`, the tests and the benchmarks start."""
