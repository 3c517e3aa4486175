"""Read a kdstream teacher cache from Python: one file to copy, whatever its length; needs h5py and numpy only; torch when it is importable.

    cache = kd_cache.Cache("teacher.h5")                       # a cache with parts, or one that `kd cache pack` made
    cache.check(rows=1797, teacher="7353936e78a9")          # what a training expects of it
    batch = cache.lookup(sample_ids, views=0)                  # {"teacher.logits": float16 [n, 10], ...}

Opening reads the manifest only. Parts open when a row of theirs is asked for, in the process that asks: a Cache may be
made before fork and may be pickled (spawn). Uncompressed parts are mapped, compressed ones are decoded a chunk at a time.
Every part is compared with the manifest when it opens; with verify=True every block of rows is summed when it is first touched.
"""
import collections
import json
import os
import re

import h5py
import numpy as np

__all__ = ["Cache", "CacheError", "BatchSampler", "CacheDataset", "JoinedDataset", "crc32c"]

SCHEMA = "kd-cache-manifest/1"
MANIFEST_HEAD = '{\n  "checksum" : "'  # of all that follows this line, CRC-32C in hexadecimal
DTYPES = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int64": "<i8", "int32": "<i4",
          "uint16": "<u2", "uint8": "u1", "bool": "u1"}
KEYS = ("sample.id", "sample.view")
ENCODINGS = ("float32", "float16", "bfloat16", "logprob8", "logprob5", "index32", "index16", "packed-index")
CHUNKS_KEPT = 8
LANE_BYTES = 256


class CacheError(Exception):
    """What failed, what came and what was wanted, what to do."""


# CRC-32C. Many lanes of a block go through the table side by side, then neighbours are joined: numpy has no loop per byte.

def _table():
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1).astype(np.uint32)
    return table


_TABLE = _table()


def _apply(matrix, crcs):
    """A linear map, given by what it makes of each of the 32 bits, on an array of sums."""
    out = np.zeros_like(crcs)
    for bit in range(32):
        out ^= np.where(crcs >> np.uint32(bit) & np.uint32(1), matrix[bit], np.uint32(0))
    return out


def _zeros(n):
    """The map of n zero bytes."""
    power = np.uint32(1) << np.arange(32, dtype=np.uint32)
    result = power.copy()
    step = (power >> np.uint32(8)) ^ _TABLE[power & np.uint32(255)]
    while n:
        if n & 1:
            result = _apply(step, result)
        step = _apply(step, step)
        n >>= 1
    return result


def crc32c(data):
    """CRC-32C of an array's bytes."""
    data = np.ascontiguousarray(data).view(np.uint8).reshape(-1) if np.size(data) else np.zeros(0, np.uint8)
    n = data.size
    lanes = 1
    while lanes * LANE_BYTES < n:
        lanes *= 2
    length = -(-n // lanes) if n else 0
    padded = np.zeros((lanes, length), np.uint8)  # zeros before the data do not change a sum that begins with 0
    padded.reshape(-1)[lanes * length - n:] = data
    crcs = np.zeros(lanes, np.uint32)
    for column in padded.T.astype(np.uint32):
        crcs = (crcs >> np.uint32(8)) ^ _TABLE[(crcs ^ column) & np.uint32(255)]
    shift = _zeros(length)
    while crcs.size > 1:
        crcs = _apply(shift, crcs[0::2]) ^ crcs[1::2]
        shift = _apply(shift, shift)
    begin = _apply(_zeros(n), np.array([0xFFFFFFFF], np.uint32))
    return int(crcs[0] ^ begin[0] ^ np.uint32(0xFFFFFFFF))


def _parse_fields(text, path):
    fields = {}
    for word in text.split():
        match = re.fullmatch(r"([a-z0-9_.-]+)=([a-z0-9]+)(?::([0-9x]+))?", word)
        if not match or match[2] not in DTYPES:
            raise CacheError(f'Cannot read cache manifest: path="{path}", member=fields, value="{word}", wanted=NAME=DTYPE:SHAPE of numbers')
        fields[match[1]] = (match[2], tuple(int(d) for d in match[3].split("x")) if match[3] else ())
    return fields


# Encodings (core/cache/README.md): what is stored becomes what a training reads.

def _levels(encoding):
    return {"logprob8": 254, "logprob5": 30}.get(encoding["encoding"] if encoding else None)


def _unpack_ids(rows, size, universe):
    """Ascending ids as Elias and Fano's bits: the low bits of each one behind the other, then a one at (high part) + (its place)."""
    low = (universe // size).bit_length() - 1 if universe > size else 0
    bits = np.unpackbits(rows, axis=-1, bitorder="little")
    lower = bits[..., :size * low].reshape(bits.shape[:-1] + (size, low)).astype(np.int64) @ (1 << np.arange(low, dtype=np.int64))
    upper = np.nonzero(bits[..., size * low:])[-1].reshape(bits.shape[:-1] + (size,)) - np.arange(size)
    return (upper << low | lower) - 1


def _cap_mass(name, rows):
    """Rounded probabilities of the k largest may sum to more than 1, which no loss takes."""
    if name.endswith(".topk.logprobs"):
        mass = np.exp(rows.astype(np.float64)).sum(-1, keepdims=True)
        rows = rows - np.where((mass > 1) & (mass < 1.5), np.log(np.where(mass > 0, mass, 1)), 0).astype(np.float32)
    return rows


def _decode(name, dtype, encoding, rows, scale):
    how = encoding["encoding"] if encoding else "keep"
    if dtype == "bfloat16":
        rows = (rows.astype(np.uint32) << np.uint32(16)).view(np.float32)
    elif dtype == "bool":
        rows = rows.astype(bool)
    if _levels(encoding):
        top, span = np.split(scale.astype(np.float32), 2, axis=-1)
        code = rows.astype(np.float32)
        rows = np.where((code > _levels(encoding)) & ~np.isnan(top), np.float32(-np.inf), top - span * (code / np.float32(_levels(encoding))) ** 2)
        return _cap_mass(name, rows)
    if how == "packed-index":
        return _unpack_ids(rows, encoding["size"], encoding["universe"])
    if how in ("index32", "index16"):
        return np.where(rows == 65535, -1, rows.astype(np.int64)) if how == "index16" else rows.astype(np.int64)
    if encoding and name.endswith((".logprobs", ".weights", ".lse")):
        return _cap_mass(name, rows.astype(np.float32))
    return rows


class _Part:
    """One open file: mapped arrays, or datasets that are decoded a chunk at a time."""

    def __init__(self, cache, entry, path):
        self.entry, self.path, self.cache = entry, path, cache
        self.arrays, self.datasets, self.kept, self.sums = {}, {}, collections.OrderedDict(), {}
        self.checked = {}
        try:
            self.file = h5py.File(path, "r")
        except OSError as why:
            raise CacheError(f'Cannot read cache part: path="{path}", reason={why}; look at the whole with: kd cache verify') from None
        self._compare()
        size = os.path.getsize(path)
        for name, (dtype, shape) in cache.all_fields.items():
            dataset = self.file[name]
            offset = dataset.id.get_offset() if dataset.chunks is None else None
            width = np.dtype(DTYPES[dtype]).itemsize * int(np.prod(shape, dtype=np.int64))
            if offset is None or not width:
                self.datasets[name] = dataset
            elif offset + width * entry["rows"] > size:
                self._refuse(f'dataset="{name}", reason=cut short')
            else:
                self.arrays[name] = np.memmap(path, DTYPES[dtype], "r", offset, (entry["rows"], *shape))
        if not self.datasets:
            self.file.close()  # nothing of libhdf5 stays open in a process that may fork
            self.file = None

    def _refuse(self, what):
        raise CacheError(f'Cannot read cache part: path="{self.path}", {what}; look at the whole with: kd cache verify')

    def _compare(self):
        """Size, rows, fields and the sum over all checksums against the manifest."""
        entry, size = self.entry, os.path.getsize(self.path)
        if not self.cache.packed and size != entry["bytes"]:
            self._refuse(f'bytes={size}, manifest={entry["bytes"]}, reason=cut or replaced')
        blocks = -(-entry["rows"] // self.cache.block_rows)
        joined = []
        for name, (dtype, shape) in self.cache.all_fields.items():
            link = self.file.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink) or not isinstance(self.file[name], h5py.Dataset):
                self._refuse(f'dataset="{name}", reason=missing, or a link')
            dataset = self.file[name]
            if dataset.external or dataset.is_virtual:
                self._refuse(f'dataset="{name}", reason=rows in another file')
            if dataset.shape != (entry["rows"], *shape) or dataset.dtype.itemsize != np.dtype(DTYPES[dtype]).itemsize:
                self._refuse(f'dataset="{name}", found={dataset.dtype}{list(dataset.shape)}, manifest={dtype}{[entry["rows"], *shape]}')
            self.sums[name] = self.file["checksum"][name][()]
            if self.sums[name].shape != (blocks,):
                self._refuse(f'dataset="checksum/{name}", wanted=int64[{blocks}]')
            self.checked[name] = np.zeros(blocks, bool)
            joined.append(self.sums[name].astype("<i8"))
        found = crc32c(np.concatenate(joined))
        if f"{found:08x}" != entry["checksum"]:
            self._refuse(f'checksums={found:08x}, manifest={entry["checksum"]}, reason=the part was changed or replaced')

    def _chunk(self, name, number, rows):
        """The last few decoded chunks are kept: the rows of a batch that lie in one are decoded once."""
        key = (name, number)
        if key not in self.kept:
            dtype, shape = self.cache.all_fields[name]
            data = self.datasets[name][number * rows:(number + 1) * rows]
            self.kept[key] = np.ascontiguousarray(data).view(DTYPES[dtype]) if shape or data.ndim else data
            while len(self.kept) > CHUNKS_KEPT:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]

    def take(self, name, rows):
        if self.cache.verify:
            for block in np.unique(rows // self.cache.block_rows):
                self.check_block(name, int(block))
        return self._take(name, rows)

    def _take(self, name, rows):
        if name in self.arrays:
            return self.arrays[name][rows]
        dataset = self.datasets[name]
        chunk = dataset.chunks[0] if dataset.chunks else self.entry["rows"]
        dtype, shape = self.cache.all_fields[name]
        out = np.empty((len(rows), *shape), DTYPES[dtype])
        numbers = rows // chunk
        for number in np.unique(numbers):
            mine = numbers == number
            out[mine] = self._chunk(name, int(number), chunk)[rows[mine] - number * chunk]
        return out

    def check_block(self, name, block):
        if self.checked[name][block]:
            return
        first = block * self.cache.block_rows
        end = min(first + self.cache.block_rows, self.entry["rows"])
        found, wanted = crc32c(self._take(name, np.arange(first, end))), int(self.sums[name][block])
        if found != wanted:
            self._refuse(f'dataset="{name}", rows={first} to {end - 1}, reason=checksum, found={found:08x}, wanted={wanted:08x}')
        self.checked[name][block] = True

    def keys(self):
        entry = self.entry
        if entry["stride"] > 0:
            return entry["first-id"] + entry["stride"] * np.arange(entry["rows"]), np.full(entry["rows"], entry["view"])
        rows = np.arange(entry["rows"])
        return self.take("sample.id", rows).astype(np.int64), self.take("sample.view", rows).astype(np.int64)


def _owner(path):
    """The cache that path lies inside of, or None."""
    path = os.path.normpath(path)
    folder = path if path.endswith(".parts") else os.path.dirname(path)
    return folder[:-len(".parts")] if folder.endswith(".parts") and os.path.isdir(folder) else None


def _refuse_open(path, folder, why):
    """As the C tools say it."""
    owner = _owner(path)
    if isinstance(why, KeyError) and owner is None:
        return CacheError(f'Not a teacher cache: path="{path}", reason=a batch file: neither {folder} nor an attribute kd.cache; write one with kdcachesink, or look at the file with kd data info')
    start = f'Cannot open cache: path="{path}", reason='
    if os.path.isdir(folder):
        what = f"make the manifest again from the parts with kd cache repair {path}" if isinstance(why, FileNotFoundError) else "let this user read it"
        return CacheError(f"{start}{os.strerror(why.errno) if why.errno else why}; {what}")
    if owner is not None:
        return CacheError(f'{start}it is inside of a cache; give the cache: "{owner}"')
    if os.path.isdir(path):
        return CacheError(f"{start}a folder; give the name that kdcachesink was given (location=), whose parts are in NAME.parts")
    if not os.path.exists(path):
        return CacheError(f'{start}neither "{path}" nor "{folder}" is there; correct the name, or write it with kdcachesink')
    if isinstance(why, PermissionError):
        return CacheError(f"{start}{os.strerror(why.errno)}; let this user read it")
    return CacheError(f"{start}not an HDF5 file, truncated, or being written: {why}; give a cache, or write one with kdcachesink")


class Cache:
    """A teacher cache. Rows are numbered through all parts; `find` and `lookup` go by (sample id, view).

    verify: sum each block of rows when it is first touched (some 100 MB/s), as the C reader does.
    """

    def __init__(self, path, verify=False):
        self.path, self.verify = os.fspath(path), verify
        self._load()
        self._pid, self._open, self._index = os.getpid(), {}, None

    def _load(self):
        folder = self.path + ".parts"
        source = os.path.join(folder, "manifest.json")
        self.packed = not os.path.exists(source) and os.path.isfile(self.path) and not os.path.isdir(folder)
        if self.packed:
            source = self.path
        try:
            if self.packed:
                with h5py.File(self.path, "r") as file:
                    text = file.attrs["kd.cache"]
            else:
                with open(source, encoding="utf-8") as file:
                    text = file.read()
            manifest = json.loads(text)
        except (KeyError, OSError) as why:
            raise _refuse_open(self.path, folder, why) from None
        except ValueError as why:
            raise CacheError(f'Cannot read cache manifest: path="{source}", reason={why}; run: kd cache repair {self.path}') from None
        if isinstance(manifest, dict) and "checksum" in manifest:
            head, rest = text[:len(MANIFEST_HEAD)], text[len(MANIFEST_HEAD) + 11:]
            if head != MANIFEST_HEAD or text[len(head):len(head) + 8] != f'{crc32c(np.frombuffer(rest.encode(), np.uint8)):08x}':
                raise CacheError(f'Cannot read cache manifest: path="{source}", member=checksum, reason=damaged, or edited: then take the line out; run: kd cache repair {self.path}')
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            found = manifest.get("schema") if isinstance(manifest, dict) else None
            raise CacheError(f'Cannot read cache manifest: path="{source}", schema="{found}", wanted="{SCHEMA}"; use the kd_cache.py of the kdstream that wrote it')
        try:
            self.identity, self.complete = dict(manifest["identity"]), bool(manifest["complete"])
            self.parts, self.block_rows, self.n_rows = list(manifest["parts"]), int(manifest["block-rows"]), int(manifest["rows"])
            self.encodings = {e["field"]: e for e in manifest.get("encodings", [])}
            self.all_fields = _parse_fields(manifest["fields"], source)
            self.first_rows = np.cumsum([0] + [int(p["rows"]) for p in self.parts])
        except (KeyError, TypeError) as why:
            raise CacheError(f'Cannot read cache manifest: path="{source}", member={why}, reason=missing or of a wrong type') from None
        if self.first_rows[-1] != self.n_rows:
            raise CacheError(f'Cannot read cache manifest: path="{source}", rows={self.n_rows}, sum of the parts={self.first_rows[-1]}')
        for part in self.parts:
            if not re.fullmatch(r"[0-9]{5,9}\.h5", str(part["file"])):
                raise CacheError(f'Cannot read cache manifest: path="{source}", file="{part["file"]}", wanted=digits and .h5')
        for name, encoding in self.encodings.items():
            if encoding["encoding"] not in ENCODINGS or name not in self.all_fields or (_levels(encoding) and name + ".scale" not in self.all_fields):
                raise CacheError(f'Cannot read cache manifest: path="{source}", field={name}, encoding="{encoding["encoding"]}", wanted={", ".join(ENCODINGS)}; use the kd_cache.py of the kdstream that wrote it')
        scales = [name + ".scale" for name, encoding in self.encodings.items() if _levels(encoding)]
        self.fields = {name: field for name, field in self.all_fields.items() if name not in (*KEYS, *scales)}

    def __getstate__(self):
        return {**self.__dict__, "_open": {}, "_index": None, "_stale": None}

    def __len__(self):
        return self.n_rows

    def __repr__(self):
        return f"<kd_cache.Cache {self.path}: {self.n_rows} rows of {' '.join(self.fields)}>"

    def part(self, nth):
        """Part nth, open in this process. What a parent had open is left alone: its library's state is not ours."""
        if self._pid != os.getpid():
            self._stale, self._pid, self._open = self._open, os.getpid(), {}
        if nth not in self._open:
            entry = self.parts[nth]
            path = self.path if self.packed else os.path.join(self.path + ".parts", entry["file"])
            self._open[nth] = _Part(self, entry, path)
        return self._open[nth]

    def check(self, rows=None, fields=(), complete=True, **identity):
        """Compare with what a training expects: rows, fields, that the capture came to its end, and any of teacher, teacher_spec,
        dataset, dataset_spec and preprocessing. `teacher` and `dataset` may be a fingerprint, its first 12 digits (`kd cache info`
        prints them) or the readable text. Raises CacheError."""
        if rows is not None and rows != self.n_rows:
            raise CacheError(f'Rows differ: path="{self.path}", rows={self.n_rows}, wanted={rows}; go on with kdcachesink resume=true, or write a new cache')
        for name in fields:
            if name not in self.fields:
                raise CacheError(f'Field not in the cache: path="{self.path}", field={name}, cache="{" ".join(self.fields)}"')
        if complete and not self.complete:
            raise CacheError(f'Cache is not complete: path="{self.path}", rows={self.n_rows}; go on with kdcachesink resume=true')
        for key, wanted in identity.items():
            name = key.replace("_", "-")
            if name not in ("teacher", "teacher-spec", "dataset", "dataset-spec", "preprocessing"):
                raise TypeError(f"check() has no argument {key}")
            have = self.identity.get(name)
            spec = self.identity.get(name + "-spec")
            short = have and wanted and len(wanted) >= 12 and have.startswith(wanted)  # as `kd cache info` prints it
            if wanted is not None and not short and wanted not in (have, spec):
                raise CacheError(f'Cache is of another {name}: path="{self.path}", cache="{have}" ({spec or "no description"}), wanted="{wanted}"; write a new cache, or go back to the {name} it was made with')

    def check_all(self, progress=None):
        """Every block of every part against its checksum: what `kd cache verify` does."""
        for nth, entry in enumerate(self.parts):
            part = self.part(nth)
            for name in self.all_fields:
                for block in range(-(-entry["rows"] // self.block_rows)):
                    part.check_block(name, block)
            if progress:
                progress(int(self.first_rows[nth + 1]), self.n_rows)

    def _build_index(self):
        """Evenly spaced parts stay as they are; the keys of others become one sorted array of (rank of id, rank of view)."""
        if self._index:
            return self._index
        runs = [(p["first-id"], p["last-id"], p["stride"], p["view"], self.first_rows[i]) for i, p in enumerate(self.parts) if p["stride"] > 0]
        runs = np.array(sorted(runs), np.int64).reshape(-1, 5)
        others = [i for i, p in enumerate(self.parts) if p["stride"] == 0]
        table = None
        if others:
            ids, views = (np.concatenate(k) for k in zip(*(self.part(i).keys() for i in others)))
            rows = np.concatenate([np.arange(self.first_rows[i], self.first_rows[i + 1]) for i in others])
            id_set, view_set = np.unique(ids), np.unique(views)
            codes = np.searchsorted(id_set, ids) * len(view_set) + np.searchsorted(view_set, views)
            order = np.argsort(codes)
            table = (id_set, view_set, codes[order], rows[order])
        self._index = (runs, bool(np.all(runs[1:, 0] > runs[:-1, 1])), table)
        return self._index

    def find(self, ids, views=0):
        """Row numbers of these keys, -1 where the cache has none."""
        ids = np.atleast_1d(np.asarray(ids, np.int64))
        views = np.broadcast_to(np.asarray(views, np.int64), ids.shape)
        runs, disjoint, table = self._build_index()
        rows = np.full(ids.shape, -1, np.int64)
        if len(runs) and disjoint:
            self._find_in_runs(runs[np.maximum(np.searchsorted(runs[:, 0], ids, "right") - 1, 0)].T, ids, views, rows)
        else:
            for run in runs:
                self._find_in_runs(run, ids, views, rows)
        if table:
            id_set, view_set, codes, where = table
            i, v = np.searchsorted(id_set, ids), np.searchsorted(view_set, views)
            i, v = np.minimum(i, len(id_set) - 1), np.minimum(v, len(view_set) - 1)
            code = i * len(view_set) + v
            at = np.minimum(np.searchsorted(codes, code), len(codes) - 1)
            hit = (id_set[i] == ids) & (view_set[v] == views) & (codes[at] == code)
            rows[hit] = where[at[hit]]
        return rows

    @staticmethod
    def _find_in_runs(run, ids, views, rows):
        first, last, stride, view, first_row = run
        hit = (ids >= first) & (ids <= last) & (views == view) & ((ids - first) % stride == 0)
        rows[hit] = ((ids - first) // stride + first_row)[hit]

    def take(self, rows, fields=None, decode=True):
        """{field: array [n, ...]} of these row numbers, in this order, decoded: log-probabilities and bfloat16 as float32, ids as int64.
        decode=False: as it is stored."""
        rows = np.atleast_1d(np.asarray(rows, np.int64))
        if rows.size and (rows.min() < 0 or rows.max() >= self.n_rows):
            raise CacheError(f'Row not in the cache: path="{self.path}", rows={rows.min()} to {rows.max()}, wanted=0 to {self.n_rows - 1}')
        names = list(self.fields) if fields is None else [fields] if isinstance(fields, str) else list(fields)
        for name in names:
            if name not in self.all_fields:
                raise CacheError(f'Field not in the cache: path="{self.path}", field={name}, cache="{" ".join(self.fields)}"')
        scales = [n + ".scale" for n in names if decode and _levels(self.encodings.get(n))]
        stored = self._take_stored(rows, [*names, *scales])
        if not decode:
            return stored
        return {n: _decode(n, self.all_fields[n][0], self.encodings.get(n), stored[n], stored.get(n + ".scale")) for n in names}

    def _take_stored(self, rows, names):
        out = {n: np.empty((len(rows), *self.all_fields[n][1]), DTYPES[self.all_fields[n][0]]) for n in names}
        nth = np.searchsorted(self.first_rows, rows, "right") - 1
        for number in np.unique(nth):
            mine = nth == number
            part, local = self.part(int(number)), rows[mine] - self.first_rows[number]
            for name, array in out.items():
                array[mine] = part.take(name, local)
        return out

    def lookup(self, ids, views=0, fields=None):
        """`take` by key; a key that the cache has not is an error that names it."""
        rows = self.find(ids, views)
        if (rows < 0).any():
            missing = np.flatnonzero(rows < 0)
            view = np.broadcast_to(np.asarray(views), rows.shape)[missing[0]]
            raise CacheError(f'Row not in the cache: path="{self.path}", id={np.atleast_1d(ids)[missing[0]]}, view={view}, missing={len(missing)} of {len(rows)}; capture it with kdcachesink resume=true')
        return self.take(rows, fields)

    def keys(self):
        """(ids, views) of all rows, by row number."""
        pairs = [self.part(i).keys() for i in range(len(self.parts))]
        return tuple(np.concatenate(k) if pairs else np.zeros(0, np.int64) for k in (list(zip(*pairs)) or [(), ()]))

    def pieces(self):
        """[(first row, end row)] that are cheap to read together: parts, and for a compressed file its chunks."""
        out = []
        for nth, entry in enumerate(self.parts):
            datasets = self.part(nth).datasets if self.packed else {}
            step = max([d.chunks[0] for d in datasets.values() if d.chunks] or [entry["rows"]])
            out += [(int(self.first_rows[nth]) + r, int(self.first_rows[nth]) + min(r + step, entry["rows"])) for r in range(0, entry["rows"], step)]
        return out


class BatchSampler:
    """Batches of row numbers that respect parts: pieces (parts, or chunks of a compressed file) are shuffled, `window` of them
    are open at a time, rows are shuffled among those. The order depends on seed and epoch only. rank/world: every world-th batch.

        loader = DataLoader(kd_cache.CacheDataset(cache), sampler=kd_cache.BatchSampler(cache, 256), batch_size=None)
    """

    def __init__(self, cache, batch_size, shuffle=True, seed=0, window=4, drop_last=False, rank=0, world=1):
        if batch_size < 1 or window < 1 or not 0 <= rank < world:
            raise ValueError(f"wanted batch_size and window above 0 and rank below world, got batch_size={batch_size}, window={window}, rank={rank}, world={world}")
        self.n_rows, self.pieces = len(cache), cache.pieces()
        self.batch_size, self.shuffle, self.seed, self.window, self.drop_last = batch_size, shuffle, seed, window, drop_last
        self.rank, self.world, self.epoch, self.start = rank, world, 0, 0

    def set_epoch(self, epoch, start=0):
        """`start`: batches of this epoch that were seen already, when a training goes on."""
        self.epoch, self.start = epoch, start

    def __len__(self):
        batches = self.n_rows // self.batch_size if self.drop_last else -(-self.n_rows // self.batch_size)
        return max((batches - self.rank + self.world - 1) // self.world - self.start, 0)

    def _rows(self):
        if not self.shuffle:
            yield from (np.arange(*piece) for piece in self.pieces)
            return
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.pieces))
        for first in range(0, len(order), self.window):
            yield random.permutation(np.concatenate([np.arange(*self.pieces[i]) for i in order[first:first + self.window]]))

    def _batches(self):
        left = np.zeros(0, np.int64)
        for rows in self._rows():
            left = np.concatenate([left, rows])
            while len(left) >= self.batch_size:
                yield left[:self.batch_size]
                left = left[self.batch_size:]
        if len(left) and not self.drop_last:
            yield left

    def __iter__(self):
        mine = (b for i, b in enumerate(self._batches()) if i % self.world == self.rank)
        for i, batch in enumerate(mine):
            if i >= self.start:
                yield batch.tolist()


try:
    from torch.utils.data import Dataset as _Dataset
except ImportError:
    _Dataset = object


def _tensors(arrays):
    import torch
    return {name: torch.from_numpy(a.astype(np.int32) if a.dtype == np.uint16 else a) for name, a in arrays.items()}


class CacheDataset(_Dataset):
    """torch Dataset of a cache alone: dataset[row] or dataset[[rows]] is a dict of tensors, sample.id and sample.view with them."""

    def __init__(self, cache, fields=None):
        self.cache = cache if isinstance(cache, Cache) else Cache(cache)
        self.names = [*KEYS, *(self.cache.fields if fields is None else fields)]
        self.cache.check(fields=[n for n in self.names if n not in KEYS], complete=False)

    def __len__(self):
        return len(self.cache)

    def __getitem__(self, rows):
        out = _tensors(self.cache.take(rows, self.names))
        return {k: v[0] for k, v in out.items()} if np.ndim(rows) == 0 else out

    def __getitems__(self, rows):
        batch = self[list(rows)]
        return [{k: v[i] for k, v in batch.items()} for i in range(len(rows))]


class JoinedDataset(_Dataset):
    """torch Dataset of samples with their teacher: joined[i] = (dataset[i], dict of tensors of key (ids[i], view)).

    ids: sample.id of each sample of `dataset`; None: its place, as `kd data` and kdh5src number samples.
    Every key is looked for at once, so that a cache of other data fails before the training begins.
    """

    def __init__(self, dataset, cache, ids=None, view=0, fields=None):
        self.dataset, self.cache = dataset, cache if isinstance(cache, Cache) else Cache(cache)
        self.ids = np.arange(len(dataset)) if ids is None else np.asarray(ids, np.int64)
        self.view, self.names = view, list(self.cache.fields) if fields is None else list(fields)
        self.cache.check(fields=self.names, complete=False)
        if len(self.ids) != len(dataset):
            raise CacheError(f"Ids and samples differ: ids={len(self.ids)}, samples={len(dataset)}")
        missing = self.ids[self.cache.find(self.ids, view) < 0]
        if len(missing):
            raise CacheError(f'Rows not in the cache: path="{self.cache.path}", missing={len(missing)} of {len(self.ids)}, first id={missing[0]}, view={view}; capture them with kdcachesink resume=true')

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, i):
        teacher = _tensors(self.cache.lookup(self.ids[i], self.view, self.names))
        return self.dataset[i], {k: v[0] for k, v in teacher.items()}
