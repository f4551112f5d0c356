"""What an output's files hold, read with h5py and libxxhash alone: ksweep's own reading is what is under test."""
import ctypes
import ctypes.util
import glob
import os

import h5py


class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


def load_xxhash():
    library = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
    library.XXH3_128bits.restype = Hash128
    library.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    return library


def load_hdf5():
    """The library that h5py itself has loaded."""
    with open("/proc/self/maps") as f:
        path = next(line.split()[-1] for line in f if "/libhdf5" in line and "_hl" not in line)
    library = ctypes.CDLL(path)
    library.H5Pset_metadata_read_attempts.argtypes = [ctypes.c_int64, ctypes.c_uint]
    return library


XXHASH = load_xxhash()
HDF5 = load_hdf5()


def open_file(path):
    """Opens what is whole, or was left by a kill. HDF5 tries metadata whose checksum fails 100 times, which never ends."""
    try:
        return h5py.File(path, "r")
    except OSError:
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        HDF5.H5Pset_metadata_read_attempts(access.id, 20)
        flags = h5py.h5f.ACC_RDONLY | h5py.h5f.ACC_SWMR_READ
        return h5py.File(h5py.h5f.open(os.fsencode(path), flags, fapl=access))


def digest(data):
    """XXH3-128 in canonical form."""
    h = XXHASH.XXH3_128bits(data, len(data))
    return h.high.to_bytes(8, "big") + h.low.to_bytes(8, "big")


def good_rows(path):
    """{index: latent's bytes} of the done rows whose check and digest hold; for a file that a kill has left too."""
    try:
        with open_file(path) as file:
            return good_rows_of(file)
    except (OSError, KeyError): # no HDF5 file, or not yet one with these data sets
        return {}


def good_rows_of(file):
    good, latents = {}, file["latents"]
    for place, row in enumerate(file["samples"][...][:len(latents)]):
        if row["status"] != 1 or ("check" in row.dtype.names and not check_holds(row)):
            continue
        latent = latents[place].tobytes()
        if digest(latent) == row["digest"].tobytes():
            good[int(row["index"])] = latent
    return good


def check_holds(row):
    covered = row.dtype.fields["check"][1]
    return digest(row.tobytes()[:covered])[:8] == row["check"].tobytes()


def shard_paths(out):
    return sorted(glob.glob(glob.escape(out) + ".d/shard-*.h5"))


def files_of(out):
    """{path: {index: latent}} of OUT and of its shards. A virtual OUT has no rows of its own."""
    files = {path: good_rows(path) for path in shard_paths(out)}
    if os.path.exists(out):
        files[out] = good_rows(out)
    return files
