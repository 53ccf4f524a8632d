"""Proposed structures out of files that are not trusted: all that is sound comes, all else becomes a sentence."""

import bz2
import gzip
import io
import json
import lzma
import os
import struct
import tarfile
import tracemalloc
import unicodedata
import warnings
import zipfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser, CifWriter

from potstill.errors import DataError
from potstill.relaxing.formats import SAME_PLACE
from potstill.relaxing.limits import Limits
from potstill.relaxing.read import read_structures

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
CIF = str(CifWriter(SALT))
NICKEL = '1\nLattice="0 1.76 1.76 1.76 0 1.76 1.76 1.76 0" Properties=species:S:1:pos:R:3 pbc="T T T"\nNi 0 0 0\n'
POSCAR = "salt\n1.0\n4 0 0\n0 4 0\n0 0 4\nCs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"


def read(*paths, **limits):
    """All that is there, with what holds of everything."""
    found = list(read_structures([str(p) for p in paths], Limits(**limits)))
    for proposed in found:
        hidden = [c for c in proposed.source + proposed.reason if unicodedata.category(c) in ("Cc", "Cf", "Cs")]
        assert not hidden
        assert len(proposed.source) <= Limits(**limits).name
        if proposed.atoms is None:
            assert proposed.reason.endswith(".")
            assert len(proposed.reason) < 500
        else:
            assert not proposed.reason
            assert proposed.atoms.pbc.all()
            assert np.isfinite(proposed.atoms.positions).all()
            assert proposed.atoms.get_volume() > 0
    return found


def only(path, **limits):
    (found,) = read(path, **limits)
    return found


def reason(path, **limits):
    found = only(path, **limits)
    assert found.atoms is None
    return found.reason


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def zipped(path, members, how=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path, members, mode="w", **how):
    """Write a tar whose members are contents, or TarInfo as it is."""
    with tarfile.open(path, mode, **how) as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if info is content else content.encode() if isinstance(content, str) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def same(a, b, tolerance=1e-5):
    """Whether two structures are the same crystal: elements, cell and distances, atom by atom in some order."""
    if a.get_chemical_formula() != b.get_chemical_formula():
        return False
    order = []
    for number, place in zip(b.numbers, b.get_scaled_positions(), strict=True):
        apart = a.get_scaled_positions() - place
        far = np.linalg.norm((apart - np.round(apart)) @ a.cell.array, axis=1) + 1e3 * (a.numbers != number)
        order.append(int(far.argmin()))
        if far.min() > tolerance:
            return False
    return len(set(order)) == len(a) and np.allclose(a.cell.cellpar(), b.cell.cellpar(), atol=tolerance)


def symmetric(structure):
    """The structure as a CIF that lists symmetry operations and the sites that are not equivalent."""
    with warnings.catch_warnings():  # of spglib, at every call
        warnings.simplefilter("ignore")
        return str(CifWriter(structure, symprec=0.001))


def of_pymatgen(structure):
    return Atoms([s.specie.symbol for s in structure], cell=structure.lattice.matrix, pbc=True,
                 scaled_positions=structure.frac_coords)  # fmt: skip


# --- real data ---


@pytest.fixture
def generated(shared_data):
    return shared_data / "generated_mattergen" / "generated_crystals.extxyz"


def test_mattergens_structures_are_read_as_ase_reads_them(generated):
    found = read(generated)
    expected = ase.io.read(generated, ":")
    assert len(found) == len(expected) == 64
    assert found[3].source.endswith("generated_crystals.extxyz#3")
    for proposed, atoms in zip(found, expected, strict=True):
        assert (proposed.atoms.numbers == atoms.numbers).all()
        np.testing.assert_array_equal(proposed.atoms.positions, atoms.positions)
        np.testing.assert_array_equal(proposed.atoms.cell.array, atoms.cell.array)


def test_mattergens_structures_come_whole_out_of_a_zip_of_cifs(generated, tmp_path):
    expected = ase.io.read(generated, ":")
    cifs = {}
    for k, atoms in enumerate(expected):
        structure = Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.get_scaled_positions())
        cifs[f"gen_{k}.cif"] = str(CifWriter(structure))
    found = read(zipped(tmp_path / "generated_crystals_cif.zip", cifs))
    assert [p.source.rpartition("/")[2] for p in found] == [f"generated_crystals_cif.zip:{name}" for name in cifs]
    assert all(same(p.atoms, atoms) for p, atoms in zip(found, expected, strict=True))


def test_mattergens_folder_is_read_without_its_trajectories(generated, tmp_path):
    write(tmp_path / "generated_crystals.extxyz", generated.read_bytes())
    zipped(tmp_path / "generated_crystals_cif.zip", {"gen_0.cif": CIF})
    steps = zipped(tmp_path / "generated_trajectories.zip", {"gen_0.extxyz": NICKEL * 5})
    found = read(tmp_path)
    assert len(found) == 65
    assert not any("trajectories" in p.source for p in found)
    assert len(read(tmp_path / "gen*")) == 65
    assert "steps" in reason(steps)


def test_structures_survive_every_format_and_packing(tmp_path):
    atoms = of_pymatgen(SALT)
    ase.io.write(tmp_path / "POSCAR", atoms, format="vasp")
    ase.io.write(tmp_path / "a.extxyz", atoms)
    ase.io.write(tmp_path / "ase.cif", atoms)
    write(tmp_path / "b.json", json.dumps(SALT.as_dict()))
    write(tmp_path / "c.json", json.dumps([SALT.as_dict(), SALT.as_dict()]))
    write(tmp_path / "d.cif", symmetric(SALT))
    text = (tmp_path / "a.extxyz").read_bytes()
    for ending, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        write(tmp_path / f"e.xyz{ending}", pack(text))
        tarred(tmp_path / f"f.tar{ending}", {"run/e.extxyz": text, "README": "none"}, f"w:{ending[1:]}")
    tarred(tmp_path / "g.tgz", {"e.vasp": (tmp_path / "POSCAR").read_bytes()}, "w:gz")
    tarred(tmp_path / "h.tar", {"CONTCAR": (tmp_path / "POSCAR").read_bytes()})
    zipped(tmp_path / "i.zip", {"run/": "", "run/POSCAR_1": (tmp_path / "POSCAR").read_bytes()})
    write(tmp_path / "notes.txt", "none")
    write(tmp_path / "._a.cif", b"\0\5\x16\7")
    found = {p.source.removeprefix(f"{tmp_path}/"): p.atoms for p in read(tmp_path)}
    assert list(found) == [
        "POSCAR", "a.extxyz#0", "ase.cif", "b.json", "c.json#0", "c.json#1", "d.cif", "e.xyz.bz2#0", "e.xyz.gz#0",
        "e.xyz.xz#0", "f.tar.bz2:run/e.extxyz#0", "f.tar.gz:run/e.extxyz#0", "f.tar.xz:run/e.extxyz#0", "g.tgz:e.vasp",
        "h.tar:CONTCAR", "i.zip:run/POSCAR_1",
    ]  # fmt: skip
    assert all(same(one, atoms) for one in found.values())


# --- paths ---


def test_a_path_that_does_not_exist_is_refused_at_once(tmp_path):
    with pytest.raises(DataError, match="there is none"):
        read_structures([str(write(tmp_path / "a.cif", CIF)), str(tmp_path / "b.cif")])


def test_a_folder_or_an_archive_without_structures_is_refused(tmp_path):
    write(tmp_path / "empty" / "notes.txt", "none")
    with pytest.raises(DataError, match="holds no structure file"):
        read_structures([str(tmp_path / "empty")])
    with pytest.raises(DataError, match="holds no structure file"):
        read_structures([str(tmp_path / "empty" / "*.txt")])
    for archive in (zipped(tmp_path / "a.zip", {"b": "none"}), tarred(tmp_path / "a.tar", {"b": "none"})):
        with pytest.raises(DataError, match="holds no structure file"):
            read(archive)


def test_patterns_and_names_with_brackets(tmp_path):
    for name in ("a[1].cif", "b/c.cif", "b/d/e.cif"):
        write(tmp_path / name, CIF)
    assert [Path(p.source).name for p in read(tmp_path / "a[1].cif")] == ["a[1].cif"]
    assert [Path(p.source).name for p in read(tmp_path / "b*")] == ["c.cif", "e.cif"]
    assert len(read(tmp_path / "**" / "*.cif")) == 3


def test_links_out_of_a_folder_are_not_followed(tmp_path):
    outside = write(tmp_path / "outside" / "secret.cif", CIF)
    inside = write(tmp_path / "run" / "a.cif", CIF)
    (tmp_path / "run" / "b.cif").symlink_to(outside)
    (tmp_path / "run" / "c.cif").symlink_to(inside)
    (tmp_path / "run" / "d.cif").symlink_to("d.cif")
    (tmp_path / "run" / "folder").symlink_to(outside.parent)
    found = {Path(p.source).name: p for p in read(tmp_path / "run")}
    assert set(found) == {"a.cif", "b.cif", "c.cif"}
    assert "link" in found["b.cif"].reason
    assert same(found["a.cif"].atoms, found["c.cif"].atoms)
    assert len(read(tmp_path / "run" / "*")) == 3
    assert only(tmp_path / "run" / "b.cif").atoms is not None  # named by the user


def test_what_is_no_file_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / "a.cif")
    write(tmp_path / "b.cif", CIF)
    assert only(tmp_path).source.endswith("b.cif")


def test_a_file_of_another_format_costs_a_row_only(tmp_path):
    found = read(write(tmp_path / "model.pt", b"\x80\4"), write(tmp_path / "a.cif", CIF))
    assert "no format that is read" in found[0].reason
    assert found[1].atoms is not None


# --- archives ---


def special(name, kind, target="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_tars_dangerous_members_become_sentences_and_the_others_are_read(tmp_path, mode, layout):
    long = "long/" * 60 + "name.cif"
    members = {
        "a.cif": CIF,
        "/etc/b.cif": CIF,
        "../../c.cif": CIF,
        "c:\\d.cif": CIF,
        "..\\e.cif": CIF,
        "f.cif": special("f.cif", tarfile.SYMTYPE),
        "g.cif": special("g.cif", tarfile.LNKTYPE, "a.cif"),
        "h.cif": special("h.cif", tarfile.CHRTYPE),
        "i.cif": special("i.cif", tarfile.FIFOTYPE),
        "folder.cif": special("folder.cif", tarfile.DIRTYPE),
        "inner.zip": b"PK",
        "packed.cif.gz": gzip.compress(CIF.encode()),
        "generated_trajectories.zip": b"PK",
        "notes.txt": "none" * 1000,
        long: CIF,
        "z.cif": CIF,
    }
    name = "x.tar" + mode[1:].replace(":", ".")
    found = {p.source.partition(f"{name}:")[2]: p for p in read(tarred(tmp_path / name, members, mode, format=layout),
                                                               name=1000)}  # fmt: skip
    left_out = ("folder.cif", "generated_trajectories.zip", "notes.txt")
    assert list(found) == [n for n in members if n not in left_out]
    assert [n for n, p in found.items() if p.atoms is not None] == ["a.cif", long, "z.cif"]
    for name, word in (("/etc/b.cif", "absolute"), ("../../c.cif", "leads out"), ("c:\\d.cif", "absolute"),
                       ("..\\e.cif", "leads out"), ("f.cif", "link"), ("g.cif", "link"), ("h.cif", "device"),
                       ("i.cif", "device"), ("inner.zip", "not opened"), ("packed.cif.gz", "not opened")):  # fmt: skip
        assert word in found[name].reason
    assert len(list(tmp_path.iterdir())) == 1


def test_a_zips_dangerous_members_become_sentences_and_the_others_are_read(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a.cif": CIF, "/b.cif": CIF, "../c.cif": CIF, "in.tar.gz": "", "z.cif": CIF})
    link = zipfile.ZipInfo("l.cif")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    locked = zipfile.ZipInfo("locked.cif")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr(locked, CIF)
        archive.writestr("method.cif", CIF, zipfile.ZIP_LZMA)
    raw = bytearray(path.read_bytes())
    for signature, flags, length in ((b"PK\3\4", 6, 30), (b"PK\1\2", 8, 46)):
        at = 0
        while (at := raw.find(signature, at)) >= 0:
            if raw[at + length :].startswith(b"locked.cif"):
                raw[at + flags] |= 1
            at += 4
    path.write_bytes(raw)
    found = {p.source.partition(":")[2]: p for p in read(path)}
    assert [n for n, p in found.items() if p.atoms is not None] == ["a.cif", "z.cif"]
    for name, word in (("/b.cif", "absolute"), ("../c.cif", "leads out"), ("in.tar.gz", "not opened"),
                       ("l.cif", "link"), ("locked.cif", "password"), ("method.cif", "method")):  # fmt: skip
        assert word in found[name].reason


def zeros(n):
    """A deflated zip of a CIF of zeros, which is a thousandth of them, and its size."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.cif", "w") as member:
        for _ in range(n // 2**20):
            member.write(bytes(2**20))
    return buffer


def peak(path, **limits):
    tracemalloc.start()
    try:
        found = read(path, **limits)
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz", "bomb.tar.bz2", "bomb.tar.xz", "bomb.cif.gz"])
def test_a_bomb_is_refused_and_nothing_more_of_it_is_read(tmp_path, name):
    path, after = tmp_path / name, {"z.cif": CIF}
    if name == "bomb.zip":
        path.write_bytes(zeros(300 * 2**20).getvalue())
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("z.cif", CIF)
        assert path.stat().st_size < 2**20
    elif name == "bomb.cif.gz":
        path.write_bytes(gzip.compress(bytes(100 * 2**20)))
    else:
        tarred(path, {"a.cif": bytes(50 * 2**20), **after}, "w:" + name.rpartition(".")[2])
    read(write(tmp_path / "first.cif", CIF))  # what is imported counts no more
    (found,), memory = peak(path)
    assert "times its size" in found.reason
    assert "nothing more of it is read" in found.reason
    assert found.source.endswith(name)
    assert memory < 64 * 2**20


def test_a_bomb_is_no_smaller_for_a_long_list_of_members(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.cif": bytes(30 * 2**20), **{f"{k}{'n' * 5000}": "" for k in range(100)}})
    assert path.stat().st_size * Limits().ratio > 100 * 2**20
    assert "times its size" in reason(path)


def test_headers_of_a_tar_that_say_endlessly_much_are_refused(tmp_path):
    for many, one, word in ((200, 1, "more than can be"), (1, 2**17, "a size that cannot be")):
        info = tarfile.TarInfo("a.cif")
        info.pax_headers = {f"key{k}": "v" * one for k in range(many)}
        assert word in reason(tarred(tmp_path / "a.tar", {"a.cif": info}, format=tarfile.PAX_FORMAT))


def test_members_that_are_skipped_count_too(tmp_path):
    path = tarred(tmp_path / "a.tar.gz", {"notes.txt": bytes(30 * 2**20), "z.cif": CIF}, "w:gz")
    assert "times its size" in reason(path)


def test_what_an_archive_unpacks_to_is_limited_whatever_its_ratio(tmp_path):
    noise = np.random.default_rng(0).bytes(2**16)
    members = {f"{k}.cif": noise for k in range(5)} | {"z.cif": CIF}
    for path in (zipped(tmp_path / "a.zip", members), tarred(tmp_path / "a.tar", members)):
        found = read(path, unpacked_bytes=3 * 2**16 + 2**14)
        assert "unpacks to more than 212,992 bytes" in found[-1].reason
        assert len(found) == 4
        assert read(path)[-1].atoms is not None


def test_an_honest_archive_larger_than_what_is_free_is_read(tmp_path):
    noise = "".join(f"#{line.hex()}\n" for line in np.random.default_rng(0).bytes(2**16 * 32).splitlines())
    members = {f"{k}.cif": CIF + noise[:5_000_000] for k in range(4)}
    for path in (tarred(tmp_path / "a.tar", members), zipped(tmp_path / "a.zip", members)):
        assert all(p.atoms is not None for p in read(path, free_bytes=2**20))


def test_a_member_and_a_file_have_a_limit_each(tmp_path):
    members = {"a.cif": CIF + "#\n" * 10_000, "z.cif": CIF}
    for path in (zipped(tmp_path / "a.zip", members), tarred(tmp_path / "a.tar.gz", members, "w:gz")):
        large, small = read(path, file_bytes=15_000)
        assert "unpacks to more than 15,000 bytes" in large.reason
        assert small.atoms is not None
    assert "larger than" in reason(write(tmp_path / "a.cif", members["a.cif"]), file_bytes=15_000)
    assert "unpacks to more" in reason(write(tmp_path / "a.cif.gz", gzip.compress(members["a.cif"].encode())),
                                       file_bytes=15_000)  # fmt: skip


def test_headers_that_lie_about_sizes_change_nothing(tmp_path):
    """A zip that claims small members is cut to the claim, and so fails its check sum."""
    path = zipped(tmp_path / "a.zip", {"a.cif": bytes(20 * 2**20), "z.cif": CIF})
    raw = bytearray(path.read_bytes())
    raw[raw.find(b"PK\1\2") + 24 :][:4] = struct.pack("<I", 10)
    at = raw.find(b"PK\1\2") + 24
    raw[at : at + 4] = struct.pack("<I", 10)
    path.write_bytes(raw)
    (lie, sound), memory = peak(path)
    assert "damaged" in lie.reason
    assert sound.atoms is not None
    assert memory < 16 * 2**20


def test_too_many_members_are_refused(tmp_path):
    members = {f"{k}.txt": "" for k in range(20)} | {"z.cif": CIF}
    for path in (zipped(tmp_path / "a.zip", members), tarred(tmp_path / "a.tar", members)):
        assert "more than 20 members" in reason(path, members=20)
        assert only(path, members=21).atoms is not None


def test_a_list_of_members_longer_than_memory_is_not_taken_in(tmp_path):
    path = zipped(tmp_path / "a.zip", {f"{k}-{'n' * 5000}.txt": "" for k in range(200)})
    assert "list of members" in reason(path, members=1000)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.extxyz.gz", "a.extxyz.xz"])
def test_a_file_that_was_cut_off_says_so(tmp_path, name):
    members = {"a.cif": CIF, "b.cif": CIF + "".join(f"#{k * k:x}\n" for k in range(20_000))}
    path = tmp_path / name
    if name.endswith(".zip"):
        zipped(path, members)
    elif ".tar" in name:
        tarred(path, members, "w" + name[5:].replace(".", ":"))
    else:
        path.write_bytes((gzip if name.endswith("gz") else lzma).compress((NICKEL * 5000).encode()))
    path.write_bytes(path.read_bytes()[: int(0.8 * path.stat().st_size)])
    last = read(path)[-1]
    assert last.atoms is None
    assert last.source.endswith(name)
    assert any(word in last.reason for word in ("cut off", "damaged"))


def test_a_tar_without_its_end_says_so_after_its_members(tmp_path):
    path = tarred(tmp_path / "a.tar", {"a.cif": CIF})
    path.write_bytes(path.read_bytes()[: 512 + 512 * -(-len(CIF) // 512)])
    sound, end = read(path)
    assert sound.atoms is not None
    assert "cut off" in end.reason


def test_what_is_there_of_a_member_that_is_cut_off_is_not_read(tmp_path):
    path = tarred(tmp_path / "a.tar", {"a.cif": CIF, "b.cif": (CIF + "#" * 4096)[:4096]})
    path.write_bytes(path.read_bytes()[: 512 + 512 * -(-len(CIF) // 512) + 512 + 3584])
    sound, end = read(path)
    assert sound.atoms is not None
    assert "cut off within 'b.cif'" in end.reason


def test_a_wrong_check_sum_costs_its_member(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.cif": CIF, "b.cif": CIF, "z.cif": CIF}, zipfile.ZIP_STORED)
    raw = bytearray(path.read_bytes())
    at = raw.find(b"_cell_length_a", raw.find(b"b.cif")) + 20
    raw[at] = ord("9")
    path.write_bytes(raw)
    first, broken, last = read(path)
    assert first.atoms is not None
    assert "CRC" in broken.reason
    assert last.atoms is not None
    packed = bytearray(gzip.compress(NICKEL.encode()))
    packed[-8] ^= 1
    assert "CRC" in reason(write(tmp_path / "a.extxyz.gz", bytes(packed)))
    tar = bytearray(tarred(tmp_path / "a.tar.gz", {"a.cif": CIF}, "w:gz").read_bytes())
    tar[-8] ^= 1
    assert "CRC" in read(write(tmp_path / "a.tar.gz", bytes(tar)))[-1].reason


def test_a_tar_whose_sizes_lead_backwards_ends(tmp_path):
    """CVE-2025-8194: a negative size sends tarfile round and round."""
    info = tarfile.TarInfo("a.cif")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    sound = tarred(tmp_path / "b.tar", {"z.cif": CIF}).read_bytes()
    assert "size" in reason(write(tmp_path / "a.tar", bytes(header) + sound))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.cif.xz"])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 100, CIF.encode()])
def test_what_is_not_what_its_name_says(tmp_path, name, content):
    assert any(word in reason(write(tmp_path / name, content)) for word in ("damaged", "cut off", "no structure"))


# --- names ---

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202egnp\u2066" + "n" * 10_000 + ".cif"


def test_hostile_names_are_cleaned_and_cut_but_not_escaped(tmp_path):
    for path in (
        zipped(tmp_path / "a.zip", {HOSTILE: CIF}),
        tarred(tmp_path / "a.tar", {HOSTILE.replace("/", "|"): CIF}),
        tarred(tmp_path / "b.tar", {HOSTILE.replace("/", "|"): CIF}, format=tarfile.GNU_FORMAT),
        write(tmp_path / "c" / f"<b>\u202e\n{'n' * 150}.cif", CIF),
    ):
        source = only(path).source
        assert "…" in source
        assert source.endswith("n.cif")
    source = read(tmp_path / "a.zip", name=2000)[0].source
    assert "a.zip:<script>alert(1)</script>\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}gnp" in source


def test_hostile_names_in_files_are_cleaned(tmp_path):
    name = "<i>\u202e\x07" + "x" * 10_000
    text = CIF.replace("data_NaCl", f"data_{name}") + CIF
    first, second = read(write(tmp_path / "a.cif", text))
    assert "#0 (<i>\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}x" in read(tmp_path / "a.cif", name=3000)[0].source
    assert "…" in first.source
    assert second.source.endswith("a.cif#1 (NaCl)")
    symbol = "\u202e<i>\x07" + "X" * 5000
    assert "chemical element" in reason(write(tmp_path / "b.cif", CIF.replace("  Na+  ", f"  {symbol}  ").replace(
        "  Na  ", f"  {symbol}  ")))  # fmt: skip
    assert "chemical element" in reason(write(tmp_path / "b.xyz", NICKEL.replace("Ni 0", f"{symbol} 0")))


# --- CIF ---


def cif(sites, *, cell=(4, 4, 4, 90, 90, 90), extra="", columns="type_symbol label fract_x fract_y fract_z"):
    names = [f"_cell_length_{k}" for k in "abc"] + [f"_cell_angle_{k}" for k in ("alpha", "beta", "gamma")]
    lines = [f"{name} {value}" for name, value in zip(names, cell, strict=True) if value is not None]
    columns = "\n".join(f"_atom_site_{name}" for name in columns.split())
    return "data_x\n" + "\n".join(lines) + f"\n{extra}\nloop_\n{columns}\n" + "\n".join(sites) + "\n"


@pytest.mark.parametrize(
    ("group", "lattice"),
    [
        ("P-1", Lattice.from_parameters(9, 10, 11, 80, 95, 103)),
        ("C2/c", Lattice.monoclinic(13, 9, 11, 108)),
        ("Pnma", Lattice.orthorhombic(11, 9, 8)),
        ("I4_1/amd", Lattice.tetragonal(11, 17)),
        ("R-3m", Lattice.hexagonal(13, 21)),
        ("P6_3/mmc", Lattice.hexagonal(12, 14)),
        ("P2_13", Lattice.cubic(9)),
        ("Pa-3", Lattice.cubic(11)),
        ("Fm-3m", Lattice.cubic(19)),
        ("Fd-3m", Lattice.cubic(21)),
    ],
)
@pytest.mark.parametrize("site", [[0.11, 0.23, 0.37], [0.3, 0.3, 0.3], [0.5, 0.5, 0.13]])
def test_symmetry_is_unfolded_as_pymatgen_unfolds_it(tmp_path, group, lattice, site):
    structure = Structure.from_spacegroup(group, lattice, ["Ti", "O"], [[0, 0, 0], site])
    text = symmetric(structure)
    assert text.count("', ") + text.count("'-") + text.count("'x") > 1
    expected = CifParser.from_str(text).parse_structures(primitive=False)[0]
    assert len(expected) >= len(structure) / 4
    assert same(only(write(tmp_path / "a.cif", text)).atoms, of_pymatgen(expected), 1e-3)


def test_rounded_special_positions_are_one_atom(tmp_path):
    hexagonal = """_symmetry_space_group_name_H-M 'P 63/m m c'
    loop_
    _symmetry_equiv_pos_as_xyz
    """ + "\n".join(f"'{op.as_xyz_str()}'" for op in _operations("P6_3/mmc"))
    text = cif(["Mg Mg1 0.3333(1) 0.6667 0.25"], cell=(3.21, 3.21, 5.21, 90, 90, 120), extra=hexagonal)
    atoms = only(write(tmp_path / "a.cif", text)).atoms
    assert same(atoms, bulk("Mg", "hcp", a=3.21, c=5.21), 1e-3) or len(atoms) == 2
    assert np.isclose(atoms.get_distance(0, 1, mic=True), np.sqrt(3.21**2 / 3 + 5.21**2 / 4), atol=1e-6)


def _operations(name):
    from pymatgen.symmetry.groups import SpaceGroup

    return SpaceGroup(name).symmetry_ops


def test_partial_occupancies_are_said_to_be(tmp_path):
    columns = "type_symbol label fract_x fract_y fract_z occupancy"
    for sites in (
        ["Ni Ni1 0 0 0 0.5", "Al Al1 0 0 0 0.5"],
        ["Ni Ni1 0 0 0 1", "Al Al1 0.5 0.5 0.5 0.90(1)"],
        ["Ni Ni1 0 0 0 2", "Al Al1 0.5 0.5 0.5 1"],
        ["Ni Ni1 0 0 0 0", "Al Al1 0.5 0.5 0.5 1"],
    ):
        assert "occupanc" in reason(write(tmp_path / "a.cif", cif(sites, columns=columns)))
    whole = ["Ni Ni1 0 0 0 1.0000", "Al Al1 0.5 0.5 0.5 ?"]
    assert len(only(write(tmp_path / "a.cif", cif(whole, columns=columns))).atoms) == 2
    disordered = Structure(Lattice.cubic(3), [{"Ni": 0.5, "Al": 0.5}], [[0, 0, 0]])
    assert "occupanc" in reason(write(tmp_path / "b.cif", str(CifWriter(disordered))))
    assert "occupanc" in reason(write(tmp_path / "c.json", json.dumps(disordered.as_dict())))


NI = "Ni Ni1 0 0 0"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (cif([NI, "Al Al1 0 0 0"]), "same place"),
        (cif([NI, "Ni Ni2 0.999 0.001 0"]), "same place"),
        (cif([NI], cell=(4, 4, None, 90, 90, 90)), "_cell_length_c is missing"),
        (cif([NI], cell=(4, 4, "nan", 90, 90, 90)), "'nan' stands"),
        (cif([NI], cell=(4, 4, "1e999", 90, 90, 90)), "number"),
        (cif([NI], cell=(4, 4, 1e300, 90, 90, 90)), "longer than 1000 Å"),
        (cif([NI], cell=(4, 4, 1001, 90, 90, 90)), "longer than 1000 Å"),
        (cif([NI], cell=(4, 4, 0, 90, 90, 90)), "cannot be"),
        (cif([NI], cell=(4, 4, -4, 90, 90, 90)), "cannot be"),
        (cif([NI], cell=(4, 4, 0.4, 90, 90, 90)), "flat"),
        (cif([NI], cell=(4, 4, 4, 10, 90, 170)), "fit no volume"),
        (cif([NI], cell=(4, 4, 4, 60, 60, 120)), "fit no volume"),
        (cif([NI], cell=(4, 4, 4, 90, 90, 1)), "flat"),
        (cif(["Ni Ni1 nan 0 0"]), "'nan' stands"),
        (cif(["Ni Ni1 ? 0 0"]), "'?' stands"),
        (cif(["Ni Ni1 1e30 0 0"]), "from the origin"),
        (cif(["X X1 0 0 0"]), "chemical element"),
        (cif(["D D1 0 0 0"]), "hydrogen"),
        (cif(["Qq Ni1 0 0 0"]), "chemical element"),
        (cif(["? Ni1 0 0 0"]), "chemical element"),
        (cif(["Wat1 0 0 0"], columns="label fract_x fract_y fract_z"), "chemical element"),
        (cif(["Ni Ni1 0 0"]), "too few values"),
        (cif([]), "too few values"),
        (cif(["Ni Ni1 0"], columns="type_symbol label Cartn_x"), "lack fractional"),
        (cif([NI], extra="_symmetry_space_group_name_H-M 'F m -3 m'"), "space group"),
        (cif([NI], extra="_space_group_IT_number 225\nloop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'"), "space group"),
        (cif([NI], extra="loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'x,y,x'"), "symmetry operation"),
        (cif([NI], extra="loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'5x,y,z'"), "symmetry operation"),
        (cif([NI], extra="loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'x+1/0,y,z'"), "not in the format"),
        (cif([NI], extra="loop_\n_symmetry_equiv_pos_as_xyz\n" + "'x,y,z'\n" * 193), "193 symmetry"),
        (cif([NI], extra="_space_group_magn.number_BNS 1.1"), "magnetic"),
        (cif([NI], extra="_journal 'not closed"), "quote is not closed"),
        (cif([NI], extra=";\nnot closed"), "not closed"),
        (cif([NI], extra="_cell_length_a 5"), "stands twice"),
        (cif([NI], extra="stray"), "has no name"),
        ("", "no structure"),
        ("loop_", "no structure"),
        ("data_global\n_journal 'none'\n", "no structure"),
    ],
)
def test_what_a_cif_lacks_is_said(tmp_path, text, word):
    assert word in reason(write(tmp_path / "a.cif", text))


def test_a_cif_that_looks_strange_but_is_sound(tmp_path):
    text = cif(
        ["Ni2+ 'a label' .0 0 0 # comment", "\"O2-\" O''1 5.00E-1 0.50(2)", "0.5"],
        extra="_journal\n;\n_cell_length_a 7\nloop_\n;\n_other 'it''s a 'quote''",
    )
    atoms = only(write(tmp_path / "a.cif", text.upper().replace("DATA_X", "DATA_x"))).atoms
    assert atoms.get_chemical_formula() == "NiO"
    np.testing.assert_allclose(atoms.get_scaled_positions()[1], 0.5)
    labels = cif(["Ni1 0 0 0", "Al_2 0.5 0.5 0.5"], columns="label fract_x fract_y fract_z")
    assert only(write(tmp_path / "b.cif", labels)).atoms.get_chemical_formula() == "AlNi"
    dots = CIF.replace("_atom_site_", "_atom_site.").replace("_cell_", "_cell.")
    assert same(only(write(tmp_path / "c.cif", dots)).atoms, of_pymatgen(SALT))


def test_a_broken_block_costs_itself_only(tmp_path):
    broken = (
        "data_b\n_cell_length_a\n;\n4\n",
        "data_b\n_cell_length_a 4\n",
        "data_b 'x\n_cell_length_a 4\n",
        "data_b\n_atom_site_label\n" + "'" * 2**21 + "\n",
        "data_b\n_cell\n" + "x\n" * 200_000,
        cif(["X X 0 0 0"]),
    )
    for text in broken:
        found = read(write(tmp_path / "a.cif", f"data_global\n_journal none\n{CIF}{text}{CIF}"), atoms=100)
        assert [p.atoms is None for p in found] == [False, True, False]
        assert found[-1].source.endswith("a.cif#3 (NaCl)")


# --- extended XYZ ---


def ten(tmp_path, change):
    frames = [NICKEL.replace("Ni 0", f"Ni {k / 10}") for k in range(10)]
    frames[3] = change(frames[3].replace("1\n", "2\n", 1) + "Al 1 1 1\n")
    return write(tmp_path / "a.extxyz", "".join(frames))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda f: f.replace("Al 1", "Al one"), "'one' stands"),
        (lambda f: f.replace("Al 1", "Al nan"), "'nan' stands"),
        (lambda f: f.replace("Al 1", "Al 1 1"), "columns"),
        (lambda f: f.replace("Al 1 1 1", "Al 1 1"), "columns"),
        (lambda f: f.replace("Al 1 1 1\n", "\n"), "columns"),
        (lambda f: f.replace("Al 1 1 1\n", ""), "1 of the 2 atoms"),
        (lambda f: f + "Al 2 2 2\n", "more than the 2 atoms"),
        (lambda f: f.replace("Al", "Xx"), "chemical element"),
        (lambda f: f.replace("Al", "D"), "hydrogen"),
        (lambda f: f.replace("Al", "0"), "chemical element"),
        (lambda f: f.replace("Al 1 1 1", "Al 0.3 0.01 0"), "same place"),
        (lambda f: f.replace("Al 1 ", "Al 1e9 "), "from the origin"),
        (lambda f: f.replace("2\n", "two\n", 1), "number of atoms"),
        (lambda f: f.replace("2\n", "", 1), "number of atoms"),
        (lambda f: f.replace("2\n", "0\n", 1), "0 atoms"),
        (lambda f: f.replace("2\n", "-2\n", 1), "number of atoms"),
        (lambda f: f.replace("2\n", "1000000\n", 1), "1,000,000 atoms"),
        (lambda f: f.replace("2\n", "9" * 5000 + "\n", 1), "number of atoms"),
        (lambda f: f.replace("Lattice", "Gitter"), "no cell"),
        (lambda f: f.replace("0 1.76 1.76 1.76", "0 1.76 1.76"), "7 numbers"),
        (lambda f: f.replace("0 1.76 1.76 1.76", "inf 1.76 1.76 1.76"), "'inf' stands"),
        (lambda f: f.replace("0 1.76 1.76 1.76", "0 1001 1.76 1.76"), "longer than"),
        (lambda f: f.replace("0 1.76 1.76 1.76 0 1.76", "1.76 0 1.76 0 1.76 1.76"), "left-handed"),
        (lambda f: f.replace("0 1.76 1.76 1.76 0 1.76", "0 1.76 1.76 0 1.76 1.76"), "flat"),
        (lambda f: f.replace("0 1.76 1.76 1.76 0 1.76 1.76 1.76 0", "0 0 0 0 0 0 0 0 0"), "flat"),
        (lambda f: f.replace("T T T", "T T F"), "periodic"),
        (lambda f: f.replace("pos:R:3", "pos:R:999999999"), "Properties"),
        (lambda f: f.replace("pos:R:3", "pos:R"), "not in the format"),
        (lambda f: f.replace("pos:R:3", "force:R:3"), "Properties"),
        (lambda f: f.replace("pbc=", "c=" + "x" * 2**21 + " pbc="), "longer than 1 MiB"),
        (lambda f: f.replace("Al", "A" * 2**21), "longer than 1 MiB"),
        (lambda f: f.replace("Al 1 1 1\n", "\0\xff\x80\n"), "columns"),
    ],
)
def test_a_broken_frame_costs_itself_only(tmp_path, change, word):
    found = read(ten(tmp_path, change))
    assert [p.atoms is None for p in found] == [k == 3 for k in range(10)]
    assert word in found[3].reason
    assert [p.source.rpartition("#")[2] for p in found] == [str(k) for k in range(10)]
    for k, proposed in enumerate(found):
        if k != 3:
            assert proposed.atoms.positions[0, 0] == k / 10


def test_the_frame_that_is_broken_there_is_sound_without(tmp_path):
    """Or the sentences of the test above could have another cause."""
    assert all(p.atoms is not None for p in read(ten(tmp_path, lambda f: f)))


def test_a_file_that_ends_within_a_frame(tmp_path):
    text = NICKEL + NICKEL.replace("1\n", "3\n", 1)
    first, second = read(write(tmp_path / "a.xyz", text))
    assert first.atoms is not None
    assert "cut off" in second.reason
    assert "no structure" in reason(write(tmp_path / "b.xyz", "\n\n"))


def test_a_million_atoms_are_refused_at_their_count(tmp_path):
    header = NICKEL.replace("1\n", "1000000\n", 1)
    assert "1,000,000 atoms; 1 to 10,000 are read" in reason(write(tmp_path / "a.extxyz", header))
    path = write(tmp_path / "b.extxyz", header + "Ni 1 1 1\n" * 99_999 + NICKEL)
    (many, one), memory = peak(path)
    assert "1,000,000 atoms" in many.reason
    assert one.atoms is not None
    assert memory < 8 * 2**20


def test_an_xyz_that_looks_strange_but_is_sound(tmp_path):
    text = (
        '2\r\nenergy=1 "a=b" note="Lattice=\\"x\\" y" Properties=forces:R:3:Z:I:1:pos:R:3:ok:L:1 '
        "Lattice = {4 0 0  0 4 0  0 0 4} flag stress=[1 2\r\n0 nan x 28 0 0 0 T\r\n0 0 0 al 2 2 2e0 F\r\n\r\n"
    )
    text = text.replace("flag stress=[1 2", "flag stress=[1 2]")
    atoms = only(write(tmp_path / "a.xyz", text)).atoms
    assert atoms.get_chemical_formula() == "AlNi"
    np.testing.assert_array_equal(atoms.positions, [[0, 0, 0], [2, 2, 2]])
    assert atoms.calc is None
    assert atoms.info == {}
    assert set(atoms.arrays) == {"numbers", "positions"}


# --- POSCAR ---


@pytest.mark.parametrize(
    "text",
    [
        POSCAR,
        POSCAR.replace("1.0\n", "-64.0\n", 1),
        POSCAR.replace("1.0\n", "1 2 3\n", 1),
        POSCAR.replace("1.0\n", "2.0\n", 1).replace("Direct", "Cartesian").replace("0.5 0.5 0.5", "1 2 3"),
        POSCAR.replace("1.0\n", "1 2 3\n", 1).replace("Direct", "kartesisch").replace("0.5 0.5 0.5", "1 2 3"),
        POSCAR.replace("Direct", "Selective dynamics\nDirect")
        .replace("0 0 0\n", "0 0 0 T T F\n")
        .replace("0.5\n", "0.5 T T T\n"),
        POSCAR.replace("Cs Cl", "Cs_sv/ab12 Cl").replace("0.5 0.5 0.5", "0.5 0.5 0.5 Cl\n\n0 0 0\n0 0 0"),
        POSCAR.replace("salt", "Cs Cl").replace("Cs Cl\n1 1", "1 1"),
    ],
)
def test_poscars_are_read_as_ase_reads_them(tmp_path, text):
    path = write(tmp_path / "a.vasp", text)
    expected = ase.io.read(path, format="vasp")
    found = only(path).atoms
    assert (found.numbers == expected.numbers).all()
    np.testing.assert_allclose(found.cell.array, expected.cell.array, atol=1e-12)
    np.testing.assert_allclose(found.positions, expected.positions, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (POSCAR.replace("1 1\n", "1 9999999\n"), "10,000,000 atoms"),
        (POSCAR.replace("1 1\n", f"1 {'9' * 5000}\n"), "number of atoms"),
        (POSCAR.replace("1 1\n", "1 -1\n"), "number of atoms"),
        (POSCAR.replace("1 1\n", "1 2\n"), "cut off"),
        (POSCAR.replace("1 1\n", "2\n"), "names 2 elements"),
        (POSCAR.replace("Cs Cl\n", ""), "names 1 elements"),
        (POSCAR.replace("Cs Cl\n", "").replace("salt", "two ions"), "chemical element"),
        (POSCAR.replace("Cs Cl", "Cs X"), "chemical element"),
        (POSCAR.replace("Cs Cl", "Cs D"), "hydrogen"),
        (POSCAR.replace("0.5 0.5 0.5", "0.5 nan 0.5"), "'nan' stands"),
        (POSCAR.replace("0.5 0.5 0.5", "0.5 0.5"), "three coordinates"),
        (POSCAR.replace("0.5 0.5 0.5", "1 0 1"), "same place"),
        (POSCAR.replace("0 0 4", "0 4 0"), "flat"),
        (POSCAR.replace("0 0 4", "0 4 0").replace("1.0", "-64"), "flat"),
        (POSCAR.replace("0 0 4", "0 0 -4"), "left-handed"),
        (POSCAR.replace("0 0 4", "0 0"), "not in the format"),
        (POSCAR.replace("1.0", "0.0"), "flat"),
        (POSCAR.replace("1.0", "1e300"), "longer than"),
        (POSCAR.replace("1.0", "one"), "scaling factor"),
        (POSCAR.replace("1.0", "1 -1 1"), "scaling factor"),
        (POSCAR.replace("Direct\n", ""), "Direct or Cartesian"),
        (POSCAR[:20], "cut off"),
        ("", "cut off"),
        ("x" * 2**21, "longer than"),
        (POSCAR + "0 0 0\n" * 2**20, "text is longer"),
    ],
)
def test_what_a_poscar_lacks_is_said(tmp_path, text, word):
    assert word in reason(write(tmp_path / "POSCAR", text))


# --- pymatgen's JSON ---


def changed(**change):
    record = SALT.as_dict()
    record["sites"][0] |= change
    return record


@pytest.mark.parametrize(
    ("record", "word"),
    [
        (changed(species=[{"element": "X", "occu": 1}]), "chemical element"),
        (changed(species=[{"element": "D", "occu": 1}]), "hydrogen"),
        (changed(species=[{"element": ["Na"], "occu": 1}]), "not in the format"),
        (changed(species=[]), "not in the format"),
        (changed(abc=[0, 0, float("nan")]), "NaN"),
        (changed(abc=[0, 0, 10**400]), "not in the format"),
        (changed(abc=[0, 0, "1"]), "'1' stands"),
        (changed(abc=[0, 0]), "not in the format"),
        (changed(abc=[0.5, 0.5, 0.5]), "same place"),
        (SALT.as_dict() | {"sites": []}, "0 atoms"),
        (SALT.as_dict() | {"sites": [{}] * 10_001}, "10,001 atoms"),
        (SALT.as_dict() | {"lattice": {"matrix": [[1, 2], [3, 4]]}}, "not in the format"),
        (SALT.as_dict() | {"lattice": {"matrix": np.eye(3).tolist(), "pbc": [True, True, False]}}, "periodic"),
        (SALT.as_dict() | {"lattice": None}, "not in the format"),
        ({"1": {"numbers": [28]}, "ids": [1], "nextid": 2}, "as_dict"),
        ([[1]], "as_dict"),
    ],
)
def test_what_a_json_lacks_is_said_and_costs_itself_only(tmp_path, record, word):
    assert word in reason(write(tmp_path / "a.json", json.dumps(record)))
    listed = [SALT.as_dict(), *(record if isinstance(record, list) else [record]), SALT.as_dict()]
    found = read(write(tmp_path / "b.json", json.dumps(listed)))
    assert [p.atoms is None for p in found] == [False, True, False]
    assert [p.source.rpartition("#")[2] for p in found] == ["0", "1", "2"]


@pytest.mark.parametrize("text", ["", "1", "[1, 2]", "[", "{", '{"a', '{"a": "\\"}', "[" * 100_000, '"' * 99_999])
def test_json_that_is_none(tmp_path, text):
    assert any(word in reason(write(tmp_path / "a.json", text)) for word in ("cut off", "holds no structure"))


def test_json_nested_beyond_what_python_follows(tmp_path):
    assert "RecursionError" in reason(write(tmp_path / "a.json", '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"))


def test_marks_within_texts_do_not_part_structures(tmp_path):
    record = SALT.as_dict() | {"properties": {'}"]{[': '\\"}]'}}
    assert len(read(write(tmp_path / "a.json", "\ufeff" + json.dumps([record, record])))) == 2


# --- all formats ---


def test_no_two_atoms_at_one_place_are_missed_and_none_invented(tmp_path):
    """Against all distances, in cells from cubic to oblique ones."""
    rng = np.random.default_rng(5)
    met = 0
    for _ in range(60):
        cell = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ np.diag([3.0, 3.0, 3.0]) + rng.normal(0, 1.2, (3, 3))
        cell[2] *= np.sign(np.linalg.det(cell))
        if (1 / np.linalg.norm(np.linalg.inv(cell), axis=0)).min() < 1.0:
            continue
        atoms = Atoms("Ni60", scaled_positions=rng.uniform(-2, 2, (60, 3)), cell=cell, pbc=True)
        atoms.positions[1] = atoms.positions[0] + rng.normal(size=3) * 0.03 + cell[int(rng.integers(3))]
        n = int(rng.integers(2, 60))
        if rng.uniform() < 0.5:
            del atoms[1]
        atoms = atoms[:n]
        nearest = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)].min() if len(atoms) > 1 else 9.0
        ase.io.write(tmp_path / "a.extxyz", atoms)
        found = only(tmp_path / "a.extxyz")
        assert (found.atoms is None) == (nearest < SAME_PLACE)
        met += found.atoms is None
    assert 5 < met < 50


def test_an_atom_a_rounding_error_below_the_origin_is_one_at_the_origin(tmp_path):
    assert only(write(tmp_path / "a.xyz", NICKEL.replace("Ni 0 0 0", "Ni -1e-18 -1e-18 -1e-18"))).atoms is not None
    text = NICKEL.replace("1\n", "2\n", 1).replace("Ni 0 0 0", "Ni -1e-18 -1e-18 -1e-18\nNi 0 0 0")
    assert "same place" in reason(write(tmp_path / "b.xyz", text))


def test_ten_thousand_atoms_at_one_place_need_no_memory(tmp_path):
    text = NICKEL.replace("1\n", "10000\n", 1) + "Ni 0 0 0\n" * 9999
    path = write(tmp_path / "a.extxyz", text)
    read(write(tmp_path / "first.extxyz", NICKEL))
    (found,), memory = peak(path)
    assert "same place" in found.reason
    assert memory < 64 * 2**20


def test_structures_are_limited_in_all(tmp_path):
    found = read(write(tmp_path / "a.xyz", NICKEL * 3), write(tmp_path / "b.xyz", "1\nno\n\n" * 3), structures=5)
    assert len(found) == 6
    assert "5 structures were read" in found[-1].reason
    assert found[-1].source.endswith("b.xyz#2")
    assert len(read(tmp_path / "a.xyz", tmp_path / "b.xyz", structures=6)) == 6


def test_atoms_are_limited_in_every_format(tmp_path):
    atoms = of_pymatgen(SALT)
    for name in ("POSCAR", "a.extxyz", "b.cif"):
        ase.io.write(tmp_path / name, atoms)
    write(tmp_path / "c.json", json.dumps(SALT.as_dict()))
    write(tmp_path / "d.cif", symmetric(SALT))
    assert all("atoms" in p.reason for p in read(tmp_path, atoms=7))
    assert all(p.atoms is not None for p in read(tmp_path, atoms=8))


@pytest.mark.parametrize("name", ["a.cif", "a.xyz", "POSCAR", "a.json"])
@pytest.mark.parametrize(
    "unit", [" ", "a", "'", '"', "'a ", "a={ ", "a=' ", "(1", "\\", '\\"', "\t;", "=", "[", "\r", "\0"]
)
def test_lines_made_to_keep_a_parser_busy_end(tmp_path, name, unit):
    line = (unit * 2**20)[: 2**20 - 10]
    text = f"data_x\n_cell_length_a {line}\n{line}\n" if name == "a.cif" else f"1\n{line}\nNi 0 0 0\n{line}\n"
    assert all(p.atoms is None for p in read(write(tmp_path / name, text)))


@pytest.mark.parametrize(
    "name", ["a.cif", "b.extxyz", "POSCAR", "c.json", "d.zip", "e.tar", "f.tar.gz", "g.xyz.gz", "h.cif"]
)
def test_whatever_bytes_change_there_are_structures_or_sentences(tmp_path, name):
    sound = {"a.cif": CIF + CIF, "b.extxyz": NICKEL * 5, "POSCAR": POSCAR, "c.json": json.dumps([SALT.as_dict()] * 2)}
    if name in sound:
        raw = sound[name].encode()
    elif name == "h.cif":
        raw = symmetric(SALT).encode()
    elif name == "d.zip":
        raw = zipped(tmp_path / name, sound).read_bytes()
    elif name == "g.xyz.gz":
        raw = gzip.compress(NICKEL.encode() * 5)
    else:
        raw = tarred(tmp_path / name, sound, "w:gz" if name.endswith("gz") else "w").read_bytes()
    rng = np.random.default_rng(len(raw))
    whole = 0
    for _ in range(60):
        data = bytearray(raw)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(data)))
            kind = rng.integers(3)
            if kind == 0:
                data[at] = rng.integers(256)
            elif kind == 1:
                del data[at : at + int(rng.integers(1, 20))]
            else:
                data[at:at] = bytes(data[: int(rng.integers(1, 20))])
        try:
            found = read(write(tmp_path / "run" / name, bytes(data)))
        except DataError as error:  # an archive whose members' names changed
            assert "holds no structure file" in str(error)  # noqa: PT017
            continue
        assert found
        whole += all(p.atoms is not None for p in found)
    assert whole < 60
    assert all(p.atoms is not None for p in read(write(tmp_path / "run" / name, raw)))


def test_nothing_is_written_and_nothing_is_said(tmp_path, monkeypatch, capfd):
    write(tmp_path / "run" / "a.cif", symmetric(SALT) + CIF)
    zipped(tmp_path / "run" / "b.zip", {"a.cif": CIF, "../b.cif": CIF, "d/e/POSCAR": POSCAR})
    tarred(tmp_path / "run" / "c.tar.gz", {"a.cif": CIF, "x/b.extxyz": NICKEL}, "w:gz")
    monkeypatch.chdir(tmp_path)
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert len(read("run")) == 7
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()) == before
    assert capfd.readouterr() == ("", "")
