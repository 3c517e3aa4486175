"""Random rows of a cache with h5py, and from an array in memory with numpy: the peers of `kd bench cache`.

Arguments: CACHE FIELD ROWS BATCHES. Prints one JSON object: seconds a batch.
"""
import json
import sys
import time

import h5py
import numpy as np


def main():
    path, field, rows, batches = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    random = np.random.default_rng(1)
    with h5py.File(path, "r") as f:
        data = f[field]
        array = data[:]
        picks = [random.choice(len(array), rows, replace=False) for _ in range(batches)]
        sorted_picks = [np.sort(p) for p in picks]  # h5py asks for rising order
        few = sorted_picks[: max(20, batches // 100)]
        start = time.perf_counter()
        for p in few:
            data[p]
        h5 = (time.perf_counter() - start) / len(few)
    best = []
    for _ in range(5):
        start = time.perf_counter()
        for p in picks:
            array[p]
        best.append((time.perf_counter() - start) / len(picks))
    print(json.dumps({"h5py": h5, "numpy": sorted(best)[2], "version": f"h5py {h5py.__version__}, numpy {np.__version__}"}))


main()
