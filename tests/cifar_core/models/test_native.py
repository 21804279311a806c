"""C functions are compiled once, and anything that goes wrong means that there are none."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cifar_core.hardware import native_bf16
from cifar_core.models import native

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
needs_fp32 = pytest.mark.skipif(native.fp32_vectors() is None, reason="neither AVX2 nor AVX512 here")
needs_bf16 = pytest.mark.skipif(not native_bf16("cpu"), reason="no AVX512-bf16 here")


@needs_compiler
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("conv3x3_fp32.c", marks=needs_fp32),
        "fused_fp32.c",
        *(pytest.param(f"{n}.c", marks=needs_bf16) for n in ("fused_bf16", "conv3x3_bf16", "conv3x3_narrow")),
    ],
)
@pytest.mark.parametrize("side", [2, 4])
def test_the_kernels_can_be_used_here(name: str, side: int) -> None:
    assert native.load(Path(native.__file__).with_name(name), f"-DOUT={side}") is not None


@needs_compiler
@pytest.mark.parametrize(
    ("name", "dtype", "more"),
    [
        pytest.param("conv3x3_fp32.c", "float32", "", marks=needs_fp32),
        pytest.param("conv3x3_bf16.c", "bfloat16", "", marks=needs_bf16),
        pytest.param("conv3x3_narrow.c", "bfloat16", ", None", marks=needs_bf16),
    ],
)
def test_convolutions_without_memory_for_their_buffers_say_so(name: str, dtype: str, more: str) -> None:
    script = f"""if True:
        import resource, torch
        from pathlib import Path
        from cifar_core.models import native

        library = native.load(Path(native.__file__).with_name("{name}"), "-DOUT=4")
        images, weight = torch.zeros(4, 1024, dtype=torch.{dtype}), torch.zeros(1024, 9, 1024)
        shape = (4, 1, 1, 1024, 1024, 1, 1)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, -1))
        print(library.call("convolve", *shape, 0, images, weight, None, images))
        print(library.call("gradient_of_weight", *shape, images, images, weight{more}))
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n1\n"


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="another processor than AMX is part of")
def test_the_kernels_for_amx_compile(tmp_path: Path) -> None:
    source = Path(native.__file__).with_name("conv3x3_amx.c")
    native._compile(source, tmp_path / "amx.so", [*native._OPTIONS, "-march=sapphirerapids"])


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    path = tmp_path / "answer.c"
    path.write_text("int answer(void) { return 42; }\n", encoding="utf-8")
    yield path
    native.load.cache_clear()


def answer(source: Path) -> int | None:
    """Return what a function of `source` returns in a new process; None if the file cannot be used."""
    native.load.cache_clear()
    library = native.load(source)
    return library.functions.answer() if library else None


def libraries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/cifar-sweeps/native").glob("**/*"))


@needs_compiler
def test_compiled_once_and_again_after_a_change(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer(source) == 42
    assert len(libraries(tmp_path)) == 1  # no temporary file is left
    monkeypatch.setenv("CC", "no-such-compiler")
    assert answer(source) == 42
    source.write_text("int answer(void) { return 43; }\n", encoding="utf-8")
    assert answer(source) is None
    monkeypatch.delenv("CC")
    assert answer(source) == 43


@needs_compiler
def test_compiled_again_after_a_change_of_a_header(source: Path) -> None:
    header = source.with_name("numbers.h")
    source.write_text('#include "numbers.h"\nint answer(void) { return ANSWER; }\n', encoding="utf-8")
    for number in (42, 43):
        header.write_text(f"#define ANSWER {number}\n", encoding="utf-8")
        assert answer(source) == number


@needs_compiler
@pytest.mark.parametrize(
    ("line", "same"), [("model name\t: another", False), ("flags\t\t: fpu", False), ("cpu MHz\t\t: 1", True)]
)
def test_compiled_again_on_another_processor(
    source: Path, monkeypatch: pytest.MonkeyPatch, line: str, same: bool
) -> None:
    assert answer(source) == 42
    read_text = Path.read_text

    def on_another(path: Path, encoding: str) -> str:
        return (f"{line}\n" if path == Path("/proc/cpuinfo") else "") + read_text(path, encoding=encoding)

    monkeypatch.setattr(Path, "read_text", on_another)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert answer(source) == (42 if same else None)


@needs_compiler
def test_none_without_gccs_openmp(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda name: loaded(name) if name else object())
    assert answer(source) is None


@needs_compiler
def test_none_for_a_file_that_does_not_compile(source: Path, tmp_path: Path) -> None:
    source.write_text("int answer(void) { return }\n", encoding="utf-8")
    assert answer(source) is None
    assert libraries(tmp_path) == []


@needs_compiler
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_library_cut_short_is_compiled_again(source: Path, tmp_path: Path, share: float) -> None:
    assert answer(source) == 42
    (library,) = libraries(tmp_path)
    whole = library.read_bytes()
    library.unlink()  # this process still uses it
    library.write_bytes(whole[: int(share * len(whole))])
    assert answer(source) == 42
    assert library.read_bytes() == whole


@needs_compiler
def test_without_a_folder_to_keep_it_in_each_process_compiles(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))  # a file
    assert answer(source) == 42


@needs_compiler
def test_where_no_program_may_lie_in_that_folder_each_process_compiles(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = ctypes.CDLL

    def load(name: str | None) -> ctypes.CDLL:  # as where it is mounted noexec
        if name and Path(name).is_relative_to(tmp_path / "cache"):
            raise OSError("failed to map segment from shared object")
        return loaded(name)

    monkeypatch.setattr(ctypes, "CDLL", load)
    for _ in range(2):
        assert answer(source) == 42


@pytest.mark.parametrize("compiler", ["no-such-compiler", "'cc"])
def test_none_without_compiler(source: Path, monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    monkeypatch.setenv("CC", compiler)
    assert answer(source) is None


@needs_compiler
def test_a_compiler_with_arguments(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "env cc")
    assert answer(source) == 42


def test_none_without_home(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert answer(source) is None
