"""Builds the C++ library of fused CPU kernels with the package; without a compiler the package does without it."""

import os
import platform
import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NATIVE = Path("ms_bert/kernels/native")
# -fno-math-errno lets sqrt be one instruction; nothing here changes a result, as -ffast-math would.
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-g0"]
if os.environ.get("MS_BERT_SANITIZE"):  # see `make sanitize`
    FLAGS += ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
FLAGS += os.environ.get("CXXFLAGS", "").split()  # the user's own, which come last
AVX512 = ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"]
BFLOAT16, INT8 = "-DMS_BERT_BFLOAT16", "-DMS_BERT_INT8"
TILES_BY_HAND = ["-O1", "-DMS_BERT_AMX", "-DMS_BERT_BY_HAND", "-DMS_BERT_WIDTH=16"]
# Those named after the baseline multiply bfloat16 and bytes by hand, for tests on processors that do not; those of
# tiles by hand compute as AMX does, whose code they share.
INSTRUCTIONS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": AVX512,
    "baseline_bf16": [BFLOAT16],
    "avx512_bf16": [*AVX512, "-mavx512bf16", BFLOAT16],
    "amx_bf16": [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-DMS_BERT_AMX", BFLOAT16],
    "tiles_by_hand_bf16": [*TILES_BY_HAND, BFLOAT16],
    "baseline_int8": [INT8],
    "avx512_vnni": [*AVX512, "-mavx512vnni", INT8],
    "amx_int8": [*AVX512, "-mavx512vnni", "-mamx-tile", "-mamx-int8", "-DMS_BERT_AMX", INT8],
    "tiles_by_hand_int8": [*TILES_BY_HAND, INT8],
}
EVERYWHERE = tuple(name for name in INSTRUCTIONS if name.startswith(("baseline", "tiles_by_hand")))


class BuildKernels(build_ext):
    """Compiles kernels.cpp once for each instruction set, into one shared library that is no Python module."""

    def get_ext_filename(self, name):
        return name.replace(".", "/") + ".so"

    def get_export_symbols(self, extension):
        return []  # not a Python module: there is no PyInit

    def build_extension(self, extension):
        wide = platform.machine().lower() in ("x86_64", "amd64")
        sets = {name: flags for name, flags in INSTRUCTIONS.items() if wide or name in EVERYWHERE}
        common = [*FLAGS, "-pthread"]
        kernels = str(NATIVE / "kernels.cpp")

        def compiled(name):
            of_set = [*common, *sets[name], f"-DMS_BERT_ISA={name}"]
            try:
                return self.compiler.compile([kernels], str(Path(self.build_temp) / name), extra_postargs=of_set)
            except CompileError:
                if name in EVERYWHERE:
                    raise
                return []  # the compiler is older than these instructions

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = dict(zip(sets, pool.map(compiled, sets)))
        objects = [path for paths in found.values() for path in paths]
        sources_hash = runpy.run_path(str(NATIVE / "sources.py"))["sources_hash"]
        macros = [
            *((f"MS_BERT_{name.upper()}", None) for name, paths in found.items() if paths),
            ("MS_BERT_SOURCES", f'"{sources_hash(NATIVE)}"'),
        ]
        sources = [str(NATIVE / "library.cpp"), str(NATIVE / "threads.cpp")]
        objects += self.compiler.compile(sources, self.build_temp, macros=macros, extra_postargs=common)
        library = self.get_ext_fullpath(extension.name)
        sanitizers = [flag for flag in FLAGS if flag.startswith("-fsanitize")]
        self.compiler.link_shared_object(objects, library, extra_postargs=["-pthread", *sanitizers], target_lang="c++")


class PlatformWheel(bdist_wheel):
    """One wheel of a platform for every version of Python, of which the library knows nothing."""

    def get_tag(self):
        _, _, platform_tag = super().get_tag()
        return "py3", "none", platform_tag


setup(
    ext_modules=[
        Extension(
            "ms_bert.kernels.native.libms_bert_kernels",
            sources=[str(path) for path in sorted(NATIVE.glob("*.cpp"))],
            depends=[str(path) for path in sorted(NATIVE.glob("*.h"))],
            optional=True,
        )
    ],
    cmdclass={"bdist_wheel": PlatformWheel, "build_ext": BuildKernels},
)
