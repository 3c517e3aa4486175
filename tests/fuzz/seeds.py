#!/usr/bin/env python3
"""Makes seeds/: small inputs of every target, some that are accepted, some that are refused, and those of found/ that can be written down.
h5-raw's need h5py and numpy; the rest need nothing.

    tests/fuzz/seeds.py [FOLDER]
"""
import json
import os
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE

# h5-program.c's tables
NAMES = ["sample.id", "sample.view", "input", "label", "mask", "teacher.logits", "teacher.logits.scale", "teacher.topk.ids", "teacher.topk.logprobs",
         "teacher.topk.logprobs.scale", "text.bytes", "text.offset", "record.json", "record.offset", "loss", "Upper", "a..b", "checksum", "kd.schema",
         "kd.fields", "kd.dtype", "kd.created-by"]
TYPES = ["f32", "f64", "i64", "i32", "u16", "u8", "u64", "i8", "i16be", "i64be", "f32be", "u32", "u64be", "i16", "half", "half8", "bool", "badbool", "enum16",
         "str5", "vlenstr", "compound", "array", "opaque", "vlen", "ref", "bits", "i24", "i11", "ldouble"]
CONTIGUOUS, ELSEWHERE, COMPACT, CHUNKED, RAW = 0, 2, 3, 4, 7
SHUFFLE, DEFLATE, FLETCHER, BLOSC = 1, 2, 4, 32


def put(target, name, data, kind="seeds"):
    path = OUT / kind / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def text(value, table):
    value = value.encode()
    known = [t.encode() if isinstance(t, str) else t for t in table]
    return bytes([known.index(value)]) if value in known else bytes([255, len(value)]) + value


def dataset(name, kind, dims, values=b"", storage=CONTIGUOUS, filters=0, chunk=(), mark=0):
    axes = b"".join(bytes([d]) if d < 255 else b"\xff" + struct.pack("<Q", d << 1) for d in dims)
    return (b"\0" + text(name, NAMES) + bytes([TYPES.index(kind), len(dims)]) + axes + bytes([storage, filters]) +
            (bytes(chunk) + bytes(len(dims) - len(chunk)) if storage >= CHUNKED else b"") + bytes([mark]) + values)


def attribute(name, value):
    return text(name, NAMES) + b"\0" + text(value, ["batch/1", "bfloat16", "", "1e400", "input=float32:2", b"\xff\xfe"])


def program(*objects, attributes=(), cut=0, tail=bytes(range(40))):
    return bytes([len(objects)]) + b"".join(objects) + bytes([len(attributes)]) + b"".join(attributes) + (b"\xff" + struct.pack("<H", cut) if cut else b"\0") + tail


def f32(*values):
    return struct.pack(f"<{len(values)}f", *values)


def i64(*values):
    return struct.pack(f"<{len(values)}q", *values)


SCHEMA = (attribute("kd.schema", "batch/1"),)
IDS = dataset("sample.id", "i64", [4], i64(3, 5, 9, 11))
VIEWS = dataset("sample.view", "i64", [4], i64(0, 0, 0, 0))
LOGITS = dataset("teacher.logits", "f32", [4, 3], f32(*range(12)))


def batch():
    put("batch", "plain", program(IDS, dataset("input", "f32", [4, 2], f32(*range(8))), dataset("label", "i64", [4], i64(0, 1, 2, 1)),
                                  dataset("mask", "bool", [4], b"\0\1\1\0"), dataset("loss", "f64", []), attributes=SCHEMA))
    put("batch", "types", program(*[dataset(f"t.{kind}", kind, [3], bytes(range(24))) for kind in TYPES[:15]]))
    put("batch", "bfloat16", program(dataset("input", "u16", [2, 3], bytes(range(12)), mark=1)))
    put("batch", "text", program(dataset("text.bytes", "u8", [6], b"abcdef"), dataset("text.offset", "i64", [4], i64(0, 1, 1, 6)), dataset("label", "i64", [3], i64(1, 2, 3))))
    put("batch", "record", program(dataset("record.json", "u8", [4], b"{}{}"), dataset("record.offset", "i64", [3], i64(0, 2, 4))))
    put("batch", "chunked", program(dataset("input", "f32", [5, 2], f32(*range(10)), CHUNKED, 0, [2]), IDS))
    for name, filters in [("shuffle-deflate", SHUFFLE | DEFLATE), ("fletcher", FLETCHER), ("blosc", BLOSC), ("three", 67)]:
        put("batch", f"filter-{name}", program(dataset("input", "i32", [6, 2], bytes(range(48)), CHUNKED, filters, [4])))
    put("batch", "filter-columns", program(dataset("input", "f32", [4, 4], f32(*range(16)), CHUNKED, DEFLATE, [2, 2])))
    put("batch", "compact", program(dataset("input", "f32", [4, 2], f32(*range(8)), COMPACT)))
    put("batch", "group", program(IDS, b"\x13" + text("step.0", NAMES) + dataset("input", "f32", [2], f32(1, 2))[2:]))
    put("batch", "bad-uneven", program(IDS, dataset("input", "f32", [3], f32(1, 2, 3)), attributes=SCHEMA))
    put("batch", "bad-offsets", program(dataset("text.bytes", "u8", [6], b"abcdef"), dataset("text.offset", "i64", [4], i64(0, 9, 1, 6))))
    put("batch", "bad-bool", program(dataset("mask", "bool", [4], b"\0\1\7\0")))
    put("batch", "bad-unsigned", program(dataset("input", "u64", [2], b"\xff" * 16)))
    put("batch", "bad-virtual", program(dataset("input", "f32", [4, 2], b"", ELSEWHERE)))
    put("batch", "bad-external", program(dataset("input", "f32", [4, 2], b"", ELSEWHERE, 1)))
    put("batch", "bad-soft", program(b"\x10" + text("input", NAMES) + b"\0"))
    put("batch", "bad-name", program(dataset("Upper", "f32", [2], f32(1, 2))))
    put("batch", "bad-chunk", program(dataset("input", "f32", [4, 2], b"\0\x10\0" + b"0123456789abcdef", RAW, DEFLATE, [2])))
    put("batch", "bad-cut", program(LOGITS, cut=100))
    put("batch", "bad-huge", program(dataset("input", "f32", [1 << 40, 1 << 20])))
    put("batch", "empty", program(dataset("input", "f32", [0, 4])))


def found_batch():
    def one(name, *objects):
        put("batch", name, program(*objects), kind="found")

    short = b"\0" + struct.pack("<H", 16) + bytes.fromhex("789caba8a800820a0006") + bytes(6)
    one("name-not-utf8", b"\0\xff\2\xff\xfe" + dataset("input", "f32", [2], f32(1, 2))[2:])
    one("short-chunk", dataset("input", "i16be", [200], short, RAW, DEFLATE, [200]))
    one("short-chunk-of-two-compressors", dataset("input", "i16be", [200], short, RAW, DEFLATE | BLOSC, [200]))
    one("short-chunk-of-columns", dataset("input", "f32", [4, 64], short * 2, RAW, DEFLATE, [4, 32]))
    one("fletcher-of-three-bytes", dataset("input", "i16be", [64], b"\0\3\0xyz" * 2, RAW, FLETCHER, [32]))
    one("blosc-of-columns", dataset("input", "f32", [4, 64], (b"\0\x20\0" + bytes.fromhex("02010104ffffff7f00100000ffffff7f") + bytes(16)) * 2, RAW, BLOSC, [4, 32]))
    put("import", "npy-descr-not-utf8", b"\3\x93NUMPY\1\0\x39\0" + b"{'descr': '<\xff\xff', 'fortran_order': False, 'shape': (2, 2)}\n", kind="found")
    put("recipe", "names-that-multiply", "[recipe]\ntitle=t\n[param]\n" + "".join(f"{chr(97 + i)}={f'${{{chr(98 + i)}}}' * 99}\n" for i in range(6)) + "g=\n[step.a]\npipeline=${a}\n", kind="found")


def part(rows=4, first=0, last=None, stride=0, nth=0, **more):
    return {"file": f"{nth + 1:05d}.h5", "rows": rows, "bytes": "@BYTES", "first-id": first, "last-id": last, "stride": stride, "view": 0,
            "checksum": f"#{nth}", **more}


def manifest(fields, parts, encodings=None, **more):
    what = {"schema": "kd-cache-manifest/1", "created-by": "kdstream 0.1.0", "complete": True, "encoding": "coded" if encodings else "dense"}
    if encodings:
        what["encodings"] = encodings
    what |= {"fields": fields, "rows": sum(p["rows"] for p in parts), "block-rows": 2, "identity": {"teacher": "aa", "teacher-spec": "arch=mlp"}, "parts": parts}
    what |= more
    out = json.dumps(what)
    for i in range(len(parts)):
        out = out.replace('"@BYTES"', f"${i}", 1)
    return out


def encoding(field, name, **more):
    return {"field": field, "encoding": name, "rows": 4, "max-error": 0.1, "mean-error": 0.01, **more}


KEYS = "sample.id=int64 sample.view=int64"
UNEVEN = dict(first=3, last=11)


def packed_ids(size, universe, rows):
    """core/math/kd-packed.h"""
    low = (universe // size).bit_length() - 1 if universe > size else 0
    n = (size * (low + 1) + ((universe - 1) >> low) + 1 + 7) // 8
    out = b""
    for ids in rows:
        bits = 0
        for i, one in enumerate(ids):
            bits |= ((one + 1) & ((1 << low) - 1)) << (i * low) | 1 << (size * low + ((one + 1) >> low) + i)
        out += bits.to_bytes(n, "little")
    return n, out


def cache():
    def one(name, text, *objects, form=0, second=None, kind="seeds"):
        put("cache", name, kind=kind, data=bytes([form]) + text.encode() + b"\0" + (program(*objects, tail=b"") + program(*second) if second else program(*objects)))

    dense = KEYS + " teacher.logits=float32:3"
    one("dense", manifest(dense, [part(**UNEVEN)]), IDS, VIEWS, LOGITS)
    run = [dataset("sample.id", "i64", [4], i64(4, 6, 8, 10)), VIEWS, LOGITS]
    one("run", manifest(dense, [part(first=4, last=10, stride=2)]), *run)
    more = [dataset("sample.id", "i64", [2], i64(20, 23)), dataset("sample.view", "i64", [2], i64(0, 1)), dataset("teacher.logits", "f32", [2, 3], f32(*range(6)))]
    one("two-parts", manifest(dense, [part(first=4, last=10, stride=2), part(2, 20, 23, nth=1)]), *run, form=4, second=more)
    one("packed", manifest(dense, [part(**UNEVEN)]), IDS, VIEWS, LOGITS, form=1)
    zipped = [dataset("sample.id", "i64", [4], i64(3, 5, 9, 11), CHUNKED, SHUFFLE | DEFLATE, [2]), VIEWS,
              dataset("teacher.logits", "f32", [4, 3], f32(*range(12)), CHUNKED, BLOSC, [3])]
    one("packed-blosc", manifest(dense, [part(**UNEVEN)]), *zipped, form=1)
    one("half", manifest(KEYS + " teacher.logits=float16:3", [part(**UNEVEN)], [encoding("teacher.logits", "float16")]), IDS, VIEWS,
        dataset("teacher.logits", "half", [4, 3], bytes(range(24))))
    codes = [dataset("teacher.logits", "u8", [4, 3], bytes(range(12))), dataset("teacher.logits.scale", "half", [4, 2], struct.pack("<8e", *[0, 4] * 4))]
    for name in ("logprob8", "logprob5"):
        one(name, manifest(KEYS + " teacher.logits=uint8:3 teacher.logits.scale=float16:2", [part(**UNEVEN)], [encoding("teacher.logits", name)]), IDS, VIEWS, *codes)
    fields = KEYS + " teacher.topk.ids=%s:2 teacher.topk.logprobs=%s:2"
    half = dataset("teacher.topk.logprobs", "half", [4, 2], struct.pack("<8e", *[-0.1, -2.5] * 4))
    one("topk", manifest(fields % ("uint16", "float16"), [part(**UNEVEN)], [encoding("teacher.topk.ids", "index16"), encoding("teacher.topk.logprobs", "float16", **{"max-tail": 0.1, "mean-tail": 0.05})]),
        IDS, VIEWS, dataset("teacher.topk.ids", "u16", [4, 2], struct.pack("<8H", 1, 2, 3, 4, 5, 6, 65535, 8)), half)
    one("index32", manifest(fields % ("int32", "float32"), [part(**UNEVEN)], [encoding("teacher.topk.ids", "index32")]),
        IDS, VIEWS, dataset("teacher.topk.ids", "i32", [4, 2], struct.pack("<8i", 1, 2, 3, 4, 5, 6, -1, 8)), dataset("teacher.topk.logprobs", "f32", [4, 2], f32(*[-0.1, -2.5] * 4)))
    n, bits = packed_ids(4, 100, [[-1, 3, 50, 98], [0, 1, 2, 3], [5, 6, 7, 8], [10, 20, 30, 40]])
    ids = manifest(KEYS + f" teacher.topk.ids=uint8:{n}", [part(**UNEVEN)], [encoding("teacher.topk.ids", "packed-index", universe=100, size=4)])
    one("packed-index", ids, IDS, VIEWS, dataset("teacher.topk.ids", "u8", [4, n], bits), form=1)
    one("bad-packed-index", ids, IDS, VIEWS, dataset("teacher.topk.ids", "u8", [4, n], b"\xff" * 4 * n), form=1)
    one("mask", manifest(KEYS + " mask=bool", [part(**UNEVEN)]), IDS, VIEWS, dataset("mask", "bool", [4], b"\0\1\1\0"))
    one("bad-sums", manifest(dense, [part(**UNEVEN)]), IDS, VIEWS, LOGITS, form=2)
    one("bad-keys", manifest(dense, [part(first=3, last=9)]), dataset("sample.id", "i64", [4], i64(3, 9, 5, 9)), VIEWS, LOGITS)
    one("bad-fields", manifest(KEYS + " teacher.logits=float64:3", [part(**UNEVEN)]), IDS, VIEWS, LOGITS)
    one("bad-rows", manifest(dense, [part(1 << 40, 0, (1 << 40) - 1, 1)]), IDS, VIEWS, LOGITS)
    one("bad-text", "{", IDS, VIEWS, LOGITS)
    # What was found.
    one("id-of-another-type", manifest("sample.id=uint8 sample.view=int64 teacher.logits=float32:3", [part(**UNEVEN)]),
        dataset("sample.id", "u8", [4], b"\3\5\x09\x0b"), VIEWS, LOGITS, kind="found")
    one("rows-no-file-holds", manifest(dense, [part(1 << 60, 0, 11)]), IDS, VIEWS, LOGITS, kind="found")
    one("index-with-size", manifest(fields % ("int32", "float32"), [part(**UNEVEN)], [encoding("teacher.topk.ids", "index32", universe=1 << 20, size=4096)]),
        IDS, VIEWS, dataset("teacher.topk.ids", "i32", [4, 2], struct.pack("<8i", *range(8))), dataset("teacher.topk.logprobs", "f32", [4, 2], f32(*[-0.1, -2.5] * 4)), kind="found")
    one("logprob-with-size", manifest(KEYS + " teacher.logits=uint8:3 teacher.logits.scale=float16:2", [part(**UNEVEN)],
                                      [encoding("teacher.logits", "logprob8", universe=100, size=7)]), IDS, VIEWS, *codes, kind="found")
    put("manifest", "deep", "[" * (1 << 17), kind="found")
    put("manifest", "deep-behind-a-quote", '{"a":[\'"\',' + "[" * (1 << 17), kind="found")
    put("manifest", "not-utf8", b'{"schema": "\xd2', kind="found")
    put("manifest", "word-cut-in-a-letter", '{"sample.id=int64 sampl\u0416\u0416\u0416\u0416" "x"}', kind="found")
    put("manifest", "rows-no-file-holds", manifest(dense, [part(1 << 60, 0, 11)]).replace("$0", "9").replace("#0", "0000000a"), kind="found")
    # The manifest alone.
    put("manifest", "dense", manifest(dense, [part(4, 0, 6, 2), part(9, 100, 108, 1, 1)]).replace("$0", "999").replace("$1", "999").replace("#0", "0000000a").replace("#1", "deadbeef"))
    put("manifest", "empty", manifest("", []))
    put("manifest", "coded", manifest(fields % ("uint16", "float16"), [part(1 << 40, -5, (1 << 40) - 6, 1)],
                                      [encoding("teacher.topk.ids", "index16"), encoding("teacher.topk.logprobs", "float16", **{"max-tail": 1, "mean-tail": 0})]).replace("$0", "1").replace("#0", "01234567"))
    put("manifest", "bad-stride", manifest(dense, [part(5, 0, 6, 2)]).replace("$0", "9").replace("#0", "0000000a"))
    put("manifest", "bad-schema", manifest(dense, [], schema="kd-cache-manifest/2"))
    put("manifest", "bad-json", '{"schema": [[[[')
    put("manifest", "bad-file", manifest(dense, [part(1, 0, 0, 1, file="../x.h5")]).replace("$0", "9").replace("#0", "0000000a"))


def texts():
    put("layout", "plain", "input=float32:1x8x8 label=int64 loss=float64:scalar sample.id=int64 text=utf8 x=bool:?x3")
    put("layout", "halves", "a=float16:2 b=bfloat16:3x? c=uint16 d=uint8:0 e=int32")
    put("layout", "bad-axis", "a=float32:1x-2")
    put("layout", "bad-twice", "a=float32 a=float32")
    put("launch", "plain", 'kdh5src location="a b.h5" ! kdteacher arch=\'mlp dims=64,10\' name=t ! tee name=x x. ! queue ! kdce temperature=4 ! kdtrain')
    put("launch", "odd", "a\\ b ! 'open \" quote\n t. ! video/x-raw,format=RGB ! kdce")
    put("launch", "bad-empty", " \t\n!")
    put("spec", "plain", 'mlp dims="64, 10" rate=0.25 depth=3 seed=18446744073709551615 bias=false kind=gelu')
    put("spec", "bad-range", "mlp depth=900")
    put("spec", "bad-key", "mlp x=1 dims=4,x")
    put("spec", "bad-quote", 'mlp dims="4')
    head = "[recipe]\ntitle=t\n"
    put("recipe", "plain", head + "seeds=3\npaper=p\n[param]\na=x ${b}\nb=y\n[step.last]\nneeds=first\npipeline=p ${a} ${seed} \\\n ${step.first}/f ${out}\nmetrics=accuracy\n"
        "[step.first]\nseeds=once\ntool=data info ${recipe}\n[compare]\nbaseline=last\nmetric=accuracy\nmethod=last\n")
    put("recipe", "bad-circle", head + "[step.a]\nneeds=b\npipeline=p\n[step.b]\nneeds=a\npipeline=p\n")
    put("recipe", "bad-name", head + "[param]\na=${a}\n[step.a]\npipeline=${a} ${none}\n")
    put("recipe", "bad-key", head + "[step.a]\nnonsense=1\n")


def safetensors(entries, data, header=None):
    header = (header or json.dumps(entries)).encode()
    return struct.pack("<Q", len(header)) + header + data


def weights():
    put("safetensors", "plain", safetensors({"__metadata__": {"kd.arch": "mlp dims=4"}, "w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
                                             "b": {"dtype": "F16", "shape": [2], "data_offsets": [16, 20]}}, bytes(20)))
    put("safetensors", "types", safetensors({"w": {"dtype": "F64", "shape": [], "data_offsets": [0, 8]}, "b": {"dtype": "BF16", "shape": [0, 3], "data_offsets": [8, 8]}}, bytes(8)))
    put("safetensors", "bad-size", safetensors({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 16]}}, bytes(16)))
    put("safetensors", "bad-json", safetensors(None, b"", "[" * 64))


def imports():
    rows = {"csv": (0, b"x,y,label\n1,2,cat\n3,\"4\",dog\n"), "jsonl": (1, b'{"a":1,"b":[1,2.5],"k":"x"}\n{"a":2,"b":[3,4],"k":"y"}\n'),
            "idx": (2, b"\0\0\x08\3\0\0\0\2\0\0\0\2\0\0\0\2\1\2\3\4\5\6\7\x08"),
            "npy": (3, b"\x93NUMPY\1\0\x39\0{'descr': '<i2', 'fortran_order': False, 'shape': (2, 2)}\n\1\0\2\0\3\0\4\0"),
            "json": (5, b'[{"a":1,"b":[1,2.5],"k":"x"},{"a":2,"b":[3,4],"k":"y"}]'), "json-split": (6, b'{"r":[],"s":[["a","x",1],["b","y",2]]}'),
            "bad-json": (5, b'[{"a":1,"k":"x"},["a"]]'), "bad-json-split": (6, b'{"r":[[1]]}'),
            "bad-csv": (0, b"x,y\n1,2\n3\n"), "bad-jsonl": (1, b'{"a":' + b"[" * 30), "bad-idx": (2, b"\0\0\x08\3\xff\xff\xff\xff\0\0\0\2\0\0\0\2"),
            "bad-npy": (3, b"\x93NUMPY\1\0\x10\0{'descr': '|O8'"), "bad-npz": (4, b"PK\3\4\x14\0\0\0\0\0")}
    for name, (which, data) in rows.items():
        put("import", name, bytes([which]) + data)


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def raw():
    import h5py
    import numpy as np

    def save(name, fill):
        path = OUT / "seeds" / "h5-raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as f:
            fill(f)

    def plain(f):
        f.attrs["kd.schema"] = "batch/1"
        f["sample.id"] = np.arange(4)
        f["input"] = np.ones((4, 2), "f4")
        f["mask"] = np.array([True, False, True, True])

    def chunked(f):
        f.create_dataset("input", data=np.arange(12, dtype="f4").reshape(6, 2), chunks=(2, 2))
        f.create_dataset("label", data=np.arange(6), chunks=(4,), compression="gzip", shuffle=True)

    def packed(f):
        fields = {"sample.id": np.array([3, 5, 9, 11]), "sample.view": np.zeros(4, "i8"), "teacher.logits": np.ones((4, 2), "f4")}
        total = 0
        for name, values in fields.items():
            f[name] = values
            sums = np.array([crc32c(values[i:i + 2].tobytes()) for i in (0, 2)])
            f["checksum/" + name] = sums
            total = crc32c(sums.tobytes(), total)
        f.attrs["kd.cache"] = manifest(KEYS + " teacher.logits=float32:2", [part(**UNEVEN)]).replace("$0", "1").replace("#0", f"{total:08x}")

    save("plain", plain)
    save("chunked", chunked)
    save("packed", packed)
    whole = (OUT / "seeds" / "h5-raw" / "plain").read_bytes()
    put("h5-raw", "bad-cut", whole[:len(whole) // 2])
    put("h5-raw", "bad-superblock", whole[:8] + b"\7" + whole[9:600])


if __name__ == "__main__":
    batch()
    found_batch()
    cache()
    texts()
    weights()
    imports()
    raw()
    print(sum(len(files) for kind in ("seeds", "found") for _, _, files in os.walk(OUT / kind)), "inputs in", OUT)
