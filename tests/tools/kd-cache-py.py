#!/usr/bin/env python3
"""tools/python/kd_cache.py against caches that kd makes. Arguments: source root, build root, and "plain" or "torch".

Exit code 77 (skipped) where h5py, or for "torch" torch, cannot be imported.
"""
import json
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

root, build, part = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
try:
    import h5py
    import numpy as np
    if part == "torch":
        import torch
except ImportError as why:
    print(f"skipped: {why}")
    sys.exit(77)
sys.path.insert(0, str(root / "tools" / "python"))
import kd_cache

ROWS, WIDTH = 3000, 10
kd = str(build / "tools" / "kd")


def values(ids, views):
    return (np.asarray(ids)[:, None] * 4 + np.asarray(views)[:, None] * 2 + np.arange(WIDTH) / 16).astype(np.float32)


def run(*words):
    done = subprocess.run([kd, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def capture(folder, name, ids, views, options=""):
    with h5py.File(folder / "d.h5", "w") as file:
        file["sample.id"], file["sample.view"], file["teacher.logits"] = ids, views, values(ids, views)
        file["teacher.flag"] = (np.asarray(ids) % 3 == 0)
    run("launch", "--quiet", f"kdh5src location={folder}/d.h5 batch-size=100 ! kdcachesink location={folder}/{name} part-bytes=20000 {options}")
    return str(folder / name)


class Folder(unittest.TestCase):
    """An evenly spaced cache in parts, a packed one in chunks, and one whose keys are anything."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="kdpy-"))
        cls.ids = 7 + 3 * np.arange(ROWS)
        cls.even = capture(cls.folder, "even.h5", cls.ids, np.full(ROWS, 2))
        random = np.random.default_rng(1)
        cls.keys = random.permutation([(i, v) for i in range(-50, 900) for v in (0, 5, -3)])[:2000]
        cls.odd = capture(cls.folder, "odd.h5", cls.keys[:, 0], cls.keys[:, 1])
        cls.packed = str(cls.folder / "packed.h5")
        run("cache", "pack", cls.odd, cls.packed, "--filter", "deflate")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def refuses(self, pattern, call, *args, **kwargs):
        with self.assertRaisesRegex(kd_cache.CacheError, pattern):
            call(*args, **kwargs)

    def copy(self):
        path = self.folder / "copy.h5"
        shutil.rmtree(f"{path}.parts", ignore_errors=True)
        shutil.copytree(f"{self.even}.parts", f"{path}.parts")
        return str(path), path.parent / "copy.h5.parts"


class Plain(Folder):
    def test_crc(self):
        self.assertEqual(kd_cache.crc32c(np.frombuffer(b"123456789", np.uint8)), 0xE3069283)
        self.assertEqual(kd_cache.crc32c(np.zeros(0)), 0)
        self.assertEqual(kd_cache.crc32c(np.zeros(32, np.uint8)), 0x8A9136AA)

    def test_lookup(self):
        cache = kd_cache.Cache(self.even, verify=True)
        self.assertEqual(len(cache), ROWS)
        self.assertGreater(len(cache.parts), 3)
        some = np.random.default_rng(2).permutation(self.ids)[:500]
        batch = cache.lookup(some, 2)
        np.testing.assert_array_equal(batch["teacher.logits"], values(some, np.full(500, 2)))
        np.testing.assert_array_equal(batch["teacher.flag"], some % 3 == 0)
        np.testing.assert_array_equal(cache.find([7, 8, 10, 6, 7 + 3 * ROWS], 2) >= 0, [True, False, True, False, False])
        np.testing.assert_array_equal(cache.find([7, 7, 7], [2, 0, 3]) >= 0, [True, False, False])
        self.refuses(r"Row not in the cache: .*id=8, view=2, missing=2 of 3", cache.lookup, [7, 8, 9], 2)
        self.refuses("field=teacher.hidden, cache=", cache.take, [0], ["teacher.hidden"])
        self.refuses("Row not in the cache", cache.take, [-1])
        self.refuses("Row not in the cache", cache.take, [ROWS])
        cache.check_all()

    def test_any_keys(self):
        for path in (self.odd, self.packed):
            cache = kd_cache.Cache(path, verify=True)
            batch = cache.lookup(self.keys[:, 0], self.keys[:, 1])
            np.testing.assert_array_equal(batch["teacher.logits"], values(self.keys[:, 0], self.keys[:, 1]))
            there = {tuple(k) for k in self.keys}
            absent = np.array([(i, v) for i in range(-60, 910) for v in (-4, -3, 0, 1, 5) if (i, v) not in there])
            self.assertTrue((cache.find(absent[:, 0], absent[:, 1]) == -1).all())
            ids, views = cache.keys()
            self.assertEqual(set(zip(ids.tolist(), views.tolist())), {tuple(k) for k in self.keys.tolist()})
            cache.check_all()

    def test_bfloat16(self):
        path = capture(self.folder, "bf.h5", self.ids, np.zeros(ROWS, np.int64), "dtype=bfloat16")
        got = kd_cache.Cache(path).lookup(self.ids)["teacher.logits"]
        self.assertEqual(got.dtype, np.float32)
        np.testing.assert_allclose(got, values(self.ids, np.zeros(ROWS)), rtol=2 ** -8)

    def test_encodings(self):
        """What kd itself decodes is the measure: export writes decoded fields."""
        wide = np.random.default_rng(3).normal(size=(500, 300)).astype(np.float32) * 4
        with h5py.File(self.folder / "w.h5", "w") as file:
            file["sample.id"], file["teacher.logits"] = np.arange(500), wide
        for i, options in enumerate(("encoding=logprob8", "encoding=logprob5", "encoding=float16", "encoding=topk k=9", "encoding=topk,teacher.topk.logprobs=logprob8 k=9", "encoding=sampled k=7", "pack")):
            path, out = str(self.folder / f"e{i}.h5"), self.folder / f"e{i}.npz"
            if options == "pack":
                run("cache", "pack", str(self.folder / "e4.h5"), path, "--filter", "deflate", "--pack-index")
            else:
                run("launch", "--quiet", f"kdh5src location={self.folder}/w.h5 ! kdcachesink location={path} part-bytes=40000 {options}")
            run("cache", "export", path, str(out))
            cache, wanted = kd_cache.Cache(path, verify=True), np.load(out)
            got = cache.lookup(wanted["sample.id"])
            self.assertEqual(set(got) | set(kd_cache.KEYS), set(wanted.files))
            for name, array in got.items():
                self.assertEqual(array.dtype, wanted[name].dtype, (options, name))
                if array.dtype == np.int64:
                    np.testing.assert_array_equal(array, wanted[name])
                else:
                    np.testing.assert_allclose(array, wanted[name], rtol=1e-6, atol=1e-6)
        logp = wide - np.log(np.exp(wide.astype(float)).sum(1, keepdims=True))
        self.assertLess(abs(kd_cache.Cache(self.folder / "e0.h5").lookup(np.arange(500))["teacher.logits"] - logp).max(), 0.15)
        raw = kd_cache.Cache(self.folder / "e0.h5").take([0], decode=False)["teacher.logits"]
        self.assertEqual(raw.dtype, np.uint8)

    def test_manifest(self):
        cache = kd_cache.Cache(self.even)
        cache.check(rows=ROWS, fields=["teacher.logits"], dataset=cache.identity["dataset"], dataset_spec=f"kdh5src location={self.folder}/d.h5 fields=", preprocessing="")
        cache.check(dataset=cache.identity["dataset"][:12])
        self.refuses("another dataset", cache.check, dataset=cache.identity["dataset"][:4])
        self.refuses(r"rows=3000, wanted=2999", cache.check, rows=2999)
        self.refuses("field=teacher.hidden", cache.check, fields=["teacher.hidden"])
        self.refuses("another dataset: .*wanted=\"abc\"", cache.check, dataset="abc")
        self.refuses("another teacher", cache.check, teacher="abc")
        self.assertRaises(TypeError, cache.check, weights="abc")
        self.refuses(r'Cannot open cache: .*reason=neither ".*none.h5" nor ".*none.h5.parts" is there; correct the name', kd_cache.Cache, str(self.folder / "none.h5"))
        self.refuses("Not a teacher cache: .*reason=a batch file: .*kd data info", kd_cache.Cache, str(self.folder / "d.h5"))
        self.refuses("reason=a folder; give the name that kdcachesink was given", kd_cache.Cache, str(self.folder))
        inside = next(self.folder.glob("*.parts/00000.h5"))
        for path in (inside, inside.parent):
            self.refuses(f'reason=it is inside of a cache; give the cache: "{re.escape(str(inside.parent)[:-6])}"$', kd_cache.Cache, str(path))
        (self.folder / "text.h5").write_text("no HDF5")
        self.refuses("reason=not an HDF5 file.*; give a cache", kd_cache.Cache, str(self.folder / "text.h5"))
        (self.folder / "lost.h5.parts").mkdir()
        self.refuses("reason=No such file or directory; make the manifest again from the parts with kd cache repair", kd_cache.Cache, str(self.folder / "lost.h5"))

    def edit(self, change):
        path, parts = self.copy()
        manifest = json.loads((parts / "manifest.json").read_text())
        del manifest["checksum"]
        change(manifest)
        (parts / "manifest.json").write_text(json.dumps(manifest))
        return path

    def test_bad_manifests(self):
        self.refuses("schema=\"x\"", kd_cache.Cache, self.edit(lambda m: m.update(schema="x")))
        self.refuses("rows=1, sum of the parts=3000", kd_cache.Cache, self.edit(lambda m: m.update(rows=1)))
        self.refuses("wanted=NAME=DTYPE", kd_cache.Cache, self.edit(lambda m: m.update(fields="a=complex")))
        self.refuses("member='identity'", kd_cache.Cache, self.edit(lambda m: m.pop("identity")))
        self.refuses("wanted=digits and .h5", kd_cache.Cache, self.edit(lambda m: m["parts"][0].update(file="../x.h5")))
        self.refuses("encoding=\"zip\", wanted=", kd_cache.Cache, self.edit(lambda m: m.update(encodings=[{"field": "teacher.logits", "encoding": "zip"}])))
        not_done = kd_cache.Cache(self.edit(lambda m: m.update(complete=False)))
        self.refuses("not complete", not_done.check)
        path, parts = self.copy()
        text = (parts / "manifest.json").read_text()
        (parts / "manifest.json").write_text(text.replace('"view" : 2', '"view" : 3'))
        self.refuses("member=checksum", kd_cache.Cache, path)
        (parts / "manifest.json").write_text("{")
        self.refuses("run: kd cache repair", kd_cache.Cache, path)

    def test_damage(self):
        path, parts = self.copy()
        file = parts / "00001.h5"
        data = bytearray(file.read_bytes())
        with h5py.File(file) as h5:
            offset = h5["teacher.logits"].id.get_offset()
        data[offset + 40 * 50 + 3] ^= 4
        file.write_bytes(data)
        row = int(kd_cache.Cache(path).first_rows[1])
        self.refuses("00001.h5.*teacher.logits.*reason=checksum", kd_cache.Cache(path, verify=True).take, [row])
        self.refuses("reason=checksum", kd_cache.Cache(path).check_all)
        file.write_bytes(data[:-8])
        self.refuses("cut or replaced|reason=", kd_cache.Cache(path).take, [row])
        shutil.copy(parts / "00000.h5", file)
        self.refuses("00001.h5", kd_cache.Cache(path).take, [row])
        file.unlink()
        self.refuses("00001.h5", kd_cache.Cache(path).take, [row])
        kd_cache.Cache(path).take([0])  # the other parts are still of use

    def test_refuses_other_files(self):
        path, parts = self.copy()
        with h5py.File(parts / "00001.h5", "a") as file:
            del file["teacher.logits"]
            file["teacher.logits"] = h5py.ExternalLink("/etc/passwd", "x")
        manifest = json.loads((parts / "manifest.json").read_text())
        del manifest["checksum"]
        manifest["parts"][1]["bytes"] = (parts / "00001.h5").stat().st_size
        (parts / "manifest.json").write_text(json.dumps(manifest))
        cache = kd_cache.Cache(path)
        self.refuses("missing, or a link", cache.take, [int(cache.first_rows[1])])

    def test_pickle(self):
        cache = kd_cache.Cache(self.packed)
        cache.take([5])
        again = pickle.loads(pickle.dumps(cache))
        np.testing.assert_array_equal(again.take([5])["teacher.logits"], cache.take([5])["teacher.logits"])

    def test_sampler(self):
        for path in (self.even, self.packed):
            cache = kd_cache.Cache(path)
            sampler = kd_cache.BatchSampler(cache, 64, seed=3, window=2)
            first = list(sampler)
            self.assertEqual(len(first), len(sampler))
            self.assertEqual(sorted(sum(first, [])), list(range(len(cache))))
            self.assertEqual(first, list(sampler))
            # Rows of two pieces at a time, and the remainder of those before.
            pieces = np.array(cache.pieces())
            for batch in first:
                self.assertLessEqual(len(np.unique(np.searchsorted(pieces[:, 0], batch, "right"))), 4)
            sampler.set_epoch(1)
            self.assertNotEqual(first, list(sampler))
            whole = list(sampler)
            sampler.set_epoch(1, start=5)
            self.assertEqual(whole[5:], list(sampler))
            self.assertEqual(len(whole) - 5, len(sampler))
            shares = [kd_cache.BatchSampler(cache, 64, seed=3, rank=r, world=3) for r in range(3)]
            self.assertEqual(sorted(sum((sum(s, []) for s in shares), [])), list(range(len(cache))))
            self.assertEqual([len(s) for s in shares], [len(list(s)) for s in shares])
            even = kd_cache.BatchSampler(cache, 64, shuffle=False, drop_last=True)
            self.assertEqual(next(iter(even)), list(range(64)))
            self.assertTrue(all(len(b) == 64 for b in even))
        self.assertRaises(ValueError, kd_cache.BatchSampler, cache, 0)
        self.assertRaises(ValueError, kd_cache.BatchSampler, cache, 8, rank=2, world=2)


class Torch(Folder):
    """A real DataLoader with four workers, started both ways; the cache has been read before they start."""

    def each_start(self):
        for path in (self.even, self.odd, self.packed):
            cache = kd_cache.Cache(path)
            cache.lookup(*(k[:3] for k in cache.keys()))
            for start in ("fork", "spawn"):
                with self.subTest(cache=path, start=start):
                    yield cache, dict(num_workers=4, multiprocessing_context=start)

    def test_batches(self):
        for cache, workers in self.each_start():
            sampler = kd_cache.BatchSampler(cache, 128, seed=1)
            loader = torch.utils.data.DataLoader(kd_cache.CacheDataset(cache), sampler=sampler, batch_size=None, persistent_workers=True, **workers)
            for epoch in range(2):
                sampler.set_epoch(epoch)
                seen = set()
                for batch in loader:
                    ids, views = batch["sample.id"].numpy(), batch["sample.view"].numpy()
                    np.testing.assert_array_equal(batch["teacher.logits"].numpy(), values(ids, views))
                    seen.update(zip(ids.tolist(), views.tolist()))
                self.assertEqual(len(seen), len(cache))

    def test_rows_collated(self):
        cache = kd_cache.Cache(self.even)
        loader = torch.utils.data.DataLoader(kd_cache.CacheDataset(cache, ["teacher.logits"]), batch_size=100, shuffle=True, num_workers=2)
        n = 0
        for batch in loader:
            np.testing.assert_array_equal(batch["teacher.logits"].numpy(), values(batch["sample.id"].numpy(), batch["sample.view"].numpy()))
            n += len(batch["sample.id"])
        self.assertEqual(n, ROWS)
        one = kd_cache.CacheDataset(cache)[3]
        self.assertEqual(one["teacher.logits"].shape, (WIDTH,))

    def test_joined(self):
        samples = [torch.tensor(float(i)) for i in range(ROWS)]
        for start in ("fork", "spawn"):
            joined = kd_cache.JoinedDataset(samples, self.even, ids=self.ids, view=2)
            loader = torch.utils.data.DataLoader(joined, batch_size=64, shuffle=True, num_workers=4, multiprocessing_context=start)
            for x, teacher in loader:
                np.testing.assert_array_equal(teacher["teacher.logits"].numpy(), values(7 + 3 * x.numpy().astype(int), np.full(len(x), 2)))
        self.refuses("ids=3000, samples=2999", kd_cache.JoinedDataset, samples[:-1], self.even, ids=self.ids, view=2)
        self.refuses("missing=3000 of 3000", kd_cache.JoinedDataset, samples, self.even, ids=self.ids)
        self.refuses("field=teacher.x", kd_cache.CacheDataset, self.even, ["teacher.x"])

    def test_readme(self):
        text = (root / "tools" / "python" / "README.md").read_text()
        blocks = re.findall(r"```(sh|python)\n(.*?)```", text, re.S)
        self.assertEqual({kind for kind, _ in blocks}, {"sh", "python"})
        folder = self.folder / "readme"
        folder.mkdir()
        shutil.copy(root / "pipelines" / "data" / "digits.h5", folder / "train.h5")
        env = dict(os.environ, PATH=f"{build / 'tools'}:{os.environ['PATH']}", PYTHONPATH=str(root / "tools" / "python"))
        for kind, code in blocks:
            words = ["/bin/sh", "-ec", code] if kind == "sh" else [sys.executable, "-c", code]
            done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"^epoch 0 loss [0-9.]+\nepoch 1 loss [0-9.]+\n$")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], defaultTest="Plain" if part == "plain" else "Torch", verbosity=2)
