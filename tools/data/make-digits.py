#!/usr/bin/python3
"""Write pipelines/data/digits.h5 from scikit-learn's copy of the UCI optdigits test set.

usage: make-digits.py OUTPUT.h5      (needs python3-sklearn and python3-h5py; takes a second)

The same input gives the same bytes, so that a rebuilt file can be compared with the committed one.
"""
import json
import sys

import h5py
import numpy as np
from sklearn.datasets import load_digits

if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
    sys.exit(__doc__)

digits = load_digits()
assert digits.images.shape == (1797, 8, 8) and digits.images.min() == 0 and digits.images.max() == 16
# Counts of 0..16 become 0..255, since models read uint8 as value / 255. Invertible: count = round (v * 16 / 255).
pixels = np.rint(digits.images[:, None] * 255 / 16).astype(np.uint8)
assert np.array_equal(np.rint(pixels.astype(float) * 16 / 255), digits.images[:, None])
fields = {
    "input": pixels,
    "label": digits.target.astype(np.int64),
    "sample.id": np.arange(len(pixels), dtype=np.int64),
}
attributes = {
    "kd.schema": "batch/1",
    "kd.created-by": "tools/data/make-digits.py",
    "kd.fields": "input=uint8:1x8x8 label=int64 sample.id=int64",
    "kd.classes": json.dumps([str(i) for i in range(10)]),
    "kd.origin": "Alpaydin, E. and Kaynak, C. (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning "
    "Repository. https://doi.org/10.24432/C50P49 (test set, as in scikit-learn's load_digits; counts 0..16 scaled to 0..255)",
    "kd.licence": "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/",
}

with h5py.File(sys.argv[1], "w", libver=("earliest", "v110"), track_order=False) as file:
    for name, array in fields.items():
        file.create_dataset(name, data=array, track_times=False)  # contiguous: can be mapped
    for name, text in attributes.items():
        # Fixed-length strings need no heap, and a reader knows their size before it allocates.
        file.attrs.create(name, np.bytes_(text.encode()))
