"""Rows of a cache with h5py, numpy, torch.save and zarr: the peers of `kd bench cache`.

Arguments: CACHE PLAIN PACKED FIELD ROWS BATCHES FOLDER. CACHE is the cache, PLAIN one contiguous file of the same rows, PACKED other rows packed
with blosc-lz4 or deflate. Prints one JSON object: seconds a batch of ROWS random rows (null: not there), bytes a second of PACKED in order.
"""
import json
import os
import sys
import time

import h5py
import numpy as np

SAMPLES = 4096  # one file each: what torchdistill does


def median(times):
    return sorted(times)[len(times) // 2]


def per_batch(read, picks, repeats=5):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for p in picks:
            read(p)
        times.append((time.perf_counter() - start) / len(picks))
    return median(times)


def torch_files(folder, array, rows, random):
    try:
        import torch
    except ImportError:
        return None
    os.mkdir(folder)
    for i in range(SAMPLES):
        torch.save(torch.from_numpy(array[i].copy()), f"{folder}/{i}.pt")
    picks = [random.choice(SAMPLES, rows, replace=False) for _ in range(3)]
    return per_batch(lambda p: torch.stack([torch.load(f"{folder}/{i}.pt") for i in p]), picks, 3)


def zarr_array(folder, array, rows, random):
    try:
        import zarr
    except ImportError:
        return None
    z = zarr.open(folder, mode="w", shape=array.shape, dtype=array.dtype, chunks=(rows, array.shape[1]))
    z[:] = array
    picks = [np.sort(random.choice(len(array), rows, replace=False)) for _ in range(3)]
    return per_batch(lambda p: z.oindex[p], picks, 3)


def sequential(path, field, rows):
    with h5py.File(path, "r") as f:
        data = f[field]
        step = max(rows, data.chunks[0] if data.chunks else rows)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            for i in range(0, len(data), step):
                data[i:i + step]
            times.append(time.perf_counter() - start)
        return data.size * data.dtype.itemsize / median(times)


def main():
    cache, plain, packed, field, folder = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[7]
    rows, batches = int(sys.argv[5]), int(sys.argv[6])
    random = np.random.default_rng(1)
    with h5py.File(cache, "r") as f:
        data = f[field]
        array = data[:]
        picks = [random.choice(len(array), rows, replace=False) for _ in range(batches)]
        h5 = per_batch(lambda p: data[p], [np.sort(p) for p in picks[:20]], 3)  # h5py asks for rising order
    with h5py.File(plain, "r") as f:
        memmap = np.memmap(plain, f[field].dtype, "r", f[field].id.get_offset(), f[field].shape)
    out = {
        "h5py": h5,
        "memory": per_batch(lambda p: array[p], picks),
        "memmap": per_batch(lambda p: np.asarray(memmap[p]), picks),
        "torch": torch_files(folder + "/pt", array, rows, random),
        "zarr": zarr_array(folder + "/zarr", array[:20000], rows, random),
        "packed": None,
        "version": f"h5py {h5py.__version__}, numpy {np.__version__}",
    }
    try:
        out["packed"] = sequential(packed, field, rows)
    except OSError:  # h5py has not the filter
        pass
    print(json.dumps(out))


main()
