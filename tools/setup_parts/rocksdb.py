"""RocksDB in 12 big compilations instead of 343 small ones.

The crate librocksdb-sys compiles every file of RocksDB by itself: 1,750 CPU-seconds, most of them spent on
reading the same C++ headers again. Here the same files, defines and flags are compiled as 12 units that each
include about 29 of them: 380 CPU-seconds. The crate takes the result through ROCKSDB_LIB_DIR. When this does
not work on a machine, the variable stays unset and the crate builds RocksDB in its own slow way.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import time

from common import Missing, PROJECT, output, say, set_by_hand

UNITS = 12
# One compiler needs up to 1.3 GB; two that start to swap are slower than one.
BYTES_A_COMPILER = 2 << 30
# What all units take on a common server, for a first guess before anything is measured.
CPU_SECONDS = 380


def build(cache):
    """Returns the variables that point to librocksdb.a, building it when the cache lacks it."""
    if set_by_hand("ROCKSDB_LIB_DIR", cache):
        say("RocksDB: ROCKSDB_LIB_DIR is set to %s" % os.environ["ROCKSDB_LIB_DIR"])
        return {name: os.environ[name] for name in ("ROCKSDB_LIB_DIR", "ROCKSDB_STATIC") if name in os.environ}
    compiler = next((path for path in (os.environ.get("CXX"), "c++", "g++", "clang++")
                     if path and shutil.which(path)), None)
    if not compiler:
        raise Missing("no C++ compiler (Debian and Ubuntu: `apt-get install g++`)")
    crates = locked_crates()
    version, crate = crates["librocksdb-sys"]
    includes = [os.path.join(crate, "rocksdb", "include"), os.path.join(crate, "rocksdb"), crate,
                os.path.join(crates["lz4-sys"][1], "liblz4", "lib"), os.path.join(crates["zstd-sys"][1], "zstd", "lib")]
    flags = compiler_flags()
    # Whatever could change the result is in the folder's name, so a stale library is never linked.
    key = json.dumps([version, crates["lz4-sys"][0], crates["zstd-sys"][0], UNITS, flags,
                      output(compiler, "--version")])
    home = os.path.join(cache, "rocksdb-%s-%s" % (version, hashlib.sha256(key.encode()).hexdigest()[:12]))
    found = {"ROCKSDB_LIB_DIR": home, "ROCKSDB_STATIC": "1"}
    if os.path.exists(os.path.join(home, "librocksdb.a")):
        say("RocksDB: %s in the cache folder" % version)
        return found
    if os.path.exists(os.path.join(home, "failed")):
        say("RocksDB: left to its crate, because %s says that the quick build failed here" % home)
        return {}
    try:
        compile_units(crate, compiler, flags, includes, home)
    except subprocess.CalledProcessError as failure:
        say("RocksDB: a unit did not compile on this machine, so its crate builds it: right, but about 15 min")
        say("RocksDB: the compiler's words are in %s" % failure.cmd)
        with open(os.path.join(home, "failed"), "w") as note:
            note.write("remove this folder to try the quick build again\n")
        return {}
    return found


def locked_crates():
    """Asks cargo for the versions in Cargo.lock and where their sources lie."""
    if not shutil.which("cargo"):
        raise Missing("no cargo: Rust 1.95 or newer is needed (rustup.rs)")
    say("crates: fetching what Cargo.lock names")
    if subprocess.run(["cargo", "fetch", "--locked", "--quiet"], cwd=PROJECT).returncode:
        raise Missing("cargo could not fetch the crates")
    told = output("cargo", "metadata", "--locked", "--offline", "--format-version", "1", cwd=PROJECT)
    if told is None:
        told = output("cargo", "metadata", "--locked", "--format-version", "1", cwd=PROJECT)
    if told is None:
        raise Missing("cargo metadata failed")
    return {package["name"]: (package["version"], os.path.dirname(package["manifest_path"]))
            for package in json.loads(told)["packages"]}


def compiler_flags():
    """The flags of librocksdb-sys's build.rs for its features lz4 and zstd, and this machine's instructions."""
    flags = ["-O2", "-fPIC", "-ffunction-sections", "-fdata-sections", "-std=c++20", "-include", "cstdint", "-w",
             "-DNDEBUG=1", "-DLZ4=1", "-DZSTD=1", "-DHAVE_ALIGNED_NEW", "-DHAVE_UINT128_EXTENSION",
             "-DROCKSDB_PLATFORM_POSIX", "-DROCKSDB_LIB_IO_POSIX"]
    if platform.system() == "Darwin":
        return flags + ["-DOS_MACOSX"]
    return flags + ["-DOS_LINUX", "-DROCKSDB_SCHED_GETCPU_PRESENT", "-DROCKSDB_AUXV_GETAUXVAL_PRESENT",
                    "-DROCKSDB_FALLOCATE_PRESENT", "-DROCKSDB_RANGESYNC_PRESENT"] + instructions()


def instructions():
    """RocksDB chooses its checksum code while it is compiled, so the compiler must be told what the CPU has."""
    with open("/proc/cpuinfo") as info:
        words = set(re.findall(r"^(?:flags|Features)\s*:(.*)$", info.read(), re.MULTILINE)[0].split())
    if platform.machine() == "x86_64":
        # No level of x86-64 includes the carry-less multiplication that crc32c wants.
        carryless = ["-mpclmul"] if "pclmulqdq" in words else []
        if {"avx2", "bmi1", "bmi2", "fma", "f16c", "movbe", "abm"} <= words and carryless:
            return ["-march=x86-64-v3"] + carryless
        if {"sse4_2", "ssse3", "popcnt", "cx16"} <= words:
            return ["-march=x86-64-v2"] + carryless
    if platform.machine() == "aarch64" and {"crc32", "aes", "pmull"} <= words:
        return ["-march=armv8-a+crc+aes+crypto"]
    return []


def compile_units(crate, compiler, flags, includes, home):
    """Compiles what is not compiled yet. Objects appear by rename, the library last, so any stop is safe."""
    os.makedirs(home, exist_ok=True)
    with open(os.path.join(crate, "rocksdb_lib_sources.txt")) as listed:
        sources = [line.strip() for line in listed if line.strip()]
    # The crate brings its own build_version.cc, which needs no git to know the version.
    sources = [os.path.join(crate, "rocksdb", name) for name in sources if name != "util/build_version.cc"]
    sources.append(os.path.join(crate, "build_version.cc"))
    units = []
    for number, files in enumerate(divide(sources)):
        path = os.path.join(home, "unit%02d.cc" % number)
        with open(path, "w") as unit:
            unit.writelines('#include "%s"\n' % name for name in files)
        units.append((path, path[:-3] + ".o"))
    waiting = [unit for unit in units if not os.path.exists(unit[1])]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    at_once = max(1, min(os.cpu_count() or 1, memory // BYTES_A_COMPILER, UNITS))
    total, started, running = len(waiting), time.monotonic(), {}
    say("RocksDB: compiling %d units, %d at a time, about %d min (once; the cache folder keeps it)"
        % (total, at_once, CPU_SECONDS * total // UNITS // at_once // 60 + 1))
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                source, target = waiting.pop(0)
                command = [compiler, *flags, *("-I" + path for path in includes), "-c", source, "-o", target + ".new"]
                log = open(target[:-2] + ".log", "w")
                # A group of its own, because the driver does not take its compiler along when it is ended.
                process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
                running[process] = (target, log)
            time.sleep(0.2)
            for process in [process for process in running if process.poll() is not None]:
                target, log = running.pop(process)
                log.close()
                if process.returncode < 0 or process.returncode and "Killed signal" in read(log.name):
                    # No fault of the sources: another try may well go through, so nothing is noted down.
                    raise Missing("a C++ compiler was killed, perhaps for want of memory; try again")
                if process.returncode:
                    raise subprocess.CalledProcessError(process.returncode, log.name)
                os.rename(target + ".new", target)
                finished = total - len(waiting) - len(running)
                # What runs beside it is taken as half done, else the first guess is far too long.
                left = (time.monotonic() - started) * (total / (finished + len(running) / 2) - 1)
                say("RocksDB: %d/%d%s" % (finished + UNITS - total, UNITS,
                                          ", about %d min %02d s left" % divmod(int(left), 60) if left >= 1 else ""))
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    archive = os.path.join(home, "librocksdb.a")
    if os.path.exists(archive + ".new"):
        os.remove(archive + ".new")
    if subprocess.run(["ar", "crs", archive + ".new"] + [target for _, target in units]).returncode:
        raise Missing("ar could not make librocksdb.a")
    os.rename(archive + ".new", archive)
    for source, target in units:
        for path in (source, target, target[:-2] + ".log"):
            if os.path.exists(path):
                os.remove(path)


def read(path):
    """Returns a file's text; a compiler's words need not be UTF-8."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def divide(sources):
    """Twelve runs of about the same number of files, in the crate's order: neighbours share headers."""
    bounds = [len(sources) * number // UNITS for number in range(UNITS + 1)]
    return [sources[start:end] for start, end in zip(bounds, bounds[1:])]
