"""All reference cases anew: python3 tests/vectors/reference/make.py (h5py, numpy and torch)."""
import classic
import geometry
import llm
import pairs
import rows
import tokens

for part in (classic, llm, rows, tokens, pairs, geometry):
    part.main()
