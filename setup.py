"""Builds the extension module clipc._core; everything else stands in pyproject.toml.

Environment variables of the build:

CLIPC_BLAS            "scipy" (default): OpenBLAS of the wheel scipy-openblas32; "system": through pkg-config
CLIPC_STB_INCLUDE     folder that holds stb_image.h, when it is not in a usual place
CLIPC_SANITIZE        for instance "address,undefined": builds with these sanitizers, for the tests
"""

import glob
import os
import shutil
import subprocess
import sys
import tempfile

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def fail(message):
    sys.exit(f"\nclipc cannot be built: {message}\n")


def openblas_from_wheel():
    try:
        import scipy_openblas32
    except ImportError:
        fail(
            "the package scipy-openblas32 is not installed. Run 'pip install scipy-openblas32',\n"
            "or set CLIPC_BLAS=system to use the OpenBLAS of the system through pkg-config."
        )
    # The wheel is a dependency of clipc at run time too, so the library lies beside the package.
    origin = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"
    return {
        "include_dirs": [scipy_openblas32.get_include_dir()],
        "library_dirs": [scipy_openblas32.get_lib_dir()],
        "libraries": [scipy_openblas32.get_library()],
        "define_macros": [("CLIPC_SCIPY_OPENBLAS", "1")],
        "extra_link_args": [f"-Wl,-rpath,{origin}/../scipy_openblas32/lib"],
    }


def openblas_from_system():
    try:
        run = subprocess.run(["pkg-config", "--cflags", "--libs", "openblas"], capture_output=True, text=True)
    except FileNotFoundError:
        fail("CLIPC_BLAS=system needs pkg-config (Debian: apt-get install pkg-config).")
    if run.returncode != 0:
        fail(
            "pkg-config does not find OpenBLAS (Debian: apt-get install libopenblas-dev;\n"
            "macOS: brew install openblas)."
        )
    flags = run.stdout.split()
    return {
        "extra_compile_args": [f for f in flags if f.startswith(("-I", "-D"))],
        "extra_link_args": [f for f in flags if not f.startswith(("-I", "-D"))],
    }


def stb_include_dir():
    asked = os.environ.get("CLIPC_STB_INCLUDE")
    places = (
        [asked]
        if asked
        else [
            "/usr/include/stb",
            "/usr/include",
            "/usr/local/include/stb",
            "/usr/local/include",
            "/opt/homebrew/include/stb",
            "/opt/homebrew/include",
        ]
    )
    for place in places:
        if os.path.isfile(os.path.join(place, "stb_image.h")):
            return place
    where = f"CLIPC_STB_INCLUDE={asked} holds no stb_image.h" if asked else "stb_image.h is not found"
    fail(
        f"{where}.\nInstall it (Debian, Ubuntu: apt-get install libstb-dev; macOS: brew install stb;\n"
        "Fedora: dnf install stb_image-devel), or download https://github.com/nothings/stb\n"
        "and set CLIPC_STB_INCLUDE to its folder."
    )


class BuildCore(build_ext):
    """Looks for what the core needs, and says in one message what is missing, before compiling."""

    def build_extensions(self):
        blas = os.environ.get("CLIPC_BLAS", "scipy")
        if blas not in ("scipy", "system"):
            fail(f"CLIPC_BLAS: expected 'scipy' or 'system', got {blas!r}.")
        found = openblas_from_wheel() if blas == "scipy" else openblas_from_system()
        import numpy

        if not shutil.which(self.compiler.compiler[0]):
            fail(
                f"no C compiler: {self.compiler.compiler[0]} is not found\n"
                "(Debian: apt-get install gcc python3-dev)."
            )
        sanitizers = os.environ.get("CLIPC_SANITIZE")
        for extension in self.extensions:
            for key, values in found.items():
                getattr(extension, key).extend(values)
            extension.include_dirs.extend([numpy.get_include(), stb_include_dir()])
            if sanitizers:
                flags = [
                    f"-fsanitize={sanitizers}",
                    "-fno-omit-frame-pointer",
                    "-g",
                    "-O1",
                    "-fno-sanitize-recover=all",
                ]
                extension.extra_compile_args.extend(flags)
                extension.extra_link_args.extend(flags)
        self.check_compiler()
        super().build_extensions()

    def check_compiler(self):
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "probe.c")
            with open(source, "w") as file:
                file.write("#include <Python.h>\n#include <stdatomic.h>\nint main(void) { return 0; }\n")
            try:
                self.compiler.compile(
                    [source], output_dir=folder, include_dirs=self.include_dirs, extra_postargs=["-std=c11"]
                )
            except Exception as error:
                fail(
                    "the C compiler does not compile a C11 file that includes Python.h (see above).\n"
                    f"Debian: apt-get install gcc python3-dev. The compiler said: {error}"
                )


core = Extension(
    "clipc._core",
    sources=sorted(glob.glob("csrc/**/*.c", recursive=True)),
    depends=sorted(glob.glob("csrc/**/*.h", recursive=True)),
    include_dirs=["csrc"],
    define_macros=[
        ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
        ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
    ],
    extra_compile_args=[
        "-std=c11",
        "-O3",
        "-Wall",
        "-Wextra",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fvisibility=hidden",
    ],
    extra_link_args=["-pthread"],
)

if sys.platform == "win32":
    fail("Windows is not supported. In the Windows Subsystem for Linux clipc builds as on Linux.")

setup(ext_modules=[core], cmdclass={"build_ext": BuildCore})
