"""Compiled loops as machine code on disk, so that a program which finds its code there never loads the compiler.

Numba compiles; the machine code it leaves goes to the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``, then
``pentad/code``) under a digest of the source, the processor and the versions. Later programs load it through llvmlite
alone. Nothing is unpickled, and a file whose digest does not fit its content is compiled again.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import importlib.metadata
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llvmlite import binding  # type: ignore[import-untyped]

from pentad.core.files import atomic

log = logging.getLogger(__name__)

_SYMBOL = "pentad_task"
_LOCK = threading.Lock()
_ENGINES: list[Any] = []  # they own the code
# What code may call without Numba's own library: LLVM's functions, and the C library's that it makes of loops.
_ALLOWED = ("llvm.", "memset", "memcpy", "memmove")


def cache_folder() -> Path:
    """Return the user's folder for compiled code, whether or not it exists."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        root = given if given.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        root = Path("~", ".cache")
    return root / "pentad" / "code"


def load(module: str, function: str, element: str, sources: Sequence[str]) -> Callable[..., None]:
    """Return a compiled function that takes addresses of numbers, one of int64 numbers and an index.

    Args:
        module: Where the Python function lies; it is imported only if it has to be compiled.
        function: Its name.
        element: ``float32`` or ``float64``, what all addresses but the last stand for.
        sources: The modules' files whose content decides whether kept code is still theirs.
    """
    with _LOCK:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        path = cache_folder() / _key(sources) / f"{function}-{element}.o"
        code = _kept(path)
        if code is None:
            code = _compiled(module, function, element, path)
        engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _machine())
        engine.add_object_file(binding.ObjectFileRef.from_data(code))
        engine.finalize_object()
        _ENGINES.append(engine)
        return _callable(engine.get_function_address(_SYMBOL))


def has_wide_lanes() -> bool:
    """Return whether the processor's registers hold sixteen float32 values, 32 of them."""
    return bool(binding.get_host_cpu_features().get("avx512f"))


def on_threads(work: Callable[[], None], workers: int) -> None:
    """Call a function that takes tasks from a common list, here and on other threads, until the list is empty.

    Args:
        work: Takes tasks until there is none.
        workers: How many do so at the same time, this thread among them.
    """
    others = [_pool(workers - 1).submit(work) for _ in range(workers - 1)]
    work()
    for other in others:
        if not other.cancel():  # it woke too late to find anything to do
            other.result()


@functools.cache
def _pool(count: int) -> ThreadPoolExecutor:
    """Return threads that sleep between calls; starting them takes longer than a short task."""
    return ThreadPoolExecutor(count, thread_name_prefix="pentad")


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _callable(address: int) -> Callable[..., None]:
    """Return the code at the address as a function; Numba's own convention puts two places for results in front."""
    call = ctypes.CFUNCTYPE(ctypes.c_int32)(address)  # calls without Python's lock
    nothing = ctypes.c_void_p()

    def function(*arguments: int) -> None:
        result = ctypes.c_void_p()
        status = call(ctypes.byref(result), ctypes.byref(nothing), *map(ctypes.c_int64, arguments))
        assert status == 0, f"compiled code returned {status}"

    return function


def _machine() -> Any:
    features = binding.get_host_cpu_features().flatten()
    target = binding.Target.from_default_triple()
    cpu = binding.get_host_cpu_name()
    return target.create_target_machine(cpu=cpu, features=features, opt=3, codemodel="jitdefault", jit=True)


def _key(sources: Sequence[str]) -> str:
    """Return a digest of all that the machine code depends on."""
    digest = hashlib.sha256()
    for name in ("numba", "llvmlite"):
        digest.update(importlib.metadata.version(name).encode() + b"\0")
    for part in (binding.get_default_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()):
        digest.update(part.encode() + b"\0")
    for file in sources:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]


def _kept(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:32], content[32:]
    return code if hashlib.sha256(code).digest() == digest else None


def _compiled(module: str, function: str, element: str, path: Path) -> bytes:
    """Return the function's machine code after keeping it, if the folder can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(path.parent, os.W_OK)
    except OSError:
        writable = False
    kept = "once on this machine" if writable else "again in every run, as the cache folder is not writable"
    name = f"{module.rpartition('.')[2]}.{function.removesuffix('_task')}"
    log.info("compiling %s, %s, %s", name, element, kept)
    start = time.perf_counter()
    code = _emitted(module, function, element)
    log.debug("compiled in %.1f s", time.perf_counter() - start)
    if writable:
        try:
            with atomic(path) as temporary:
                temporary.write_bytes(hashlib.sha256(code).digest() + code)
        except OSError as error:  # the disk is full, for instance
            log.warning("the compiled %s could not be kept in %s: %s", name, path.parent, error.strerror)
    return code


def _emitted(module: str, function: str, element: str) -> bytes:
    """Compile with Numba and return the object file of that function and what it calls."""
    numba: Any = importlib.import_module("numba")
    python = getattr(importlib.import_module(module), function)
    number, integer = numba.types.CPointer(getattr(numba.types, element)), numba.types.int64
    count = python.__code__.co_argcount - 2
    signature = numba.types.void(*[number] * count, numba.types.CPointer(integer), integer)
    made = numba.cfunc(signature, error_model="numpy")(python)
    assembly = binding.parse_assembly(made.inspect_llvm())
    wanted = made.native_name.removeprefix("cfunc.")
    # The wrapper that reports Python errors needs Numba's library, and nothing here raises any: it goes.
    for item in (*assembly.functions, *assembly.global_variables):
        if not item.is_declaration:
            item.linkage = "external" if item.name == wanted else "internal"
    assembly.get_function(wanted).name = _SYMBOL
    machine = _machine()
    passes = binding.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(assembly, binding.create_pass_builder(machine, binding.create_pipeline_tuning_options()))
    outside = [f.name for f in assembly.functions if f.is_declaration and not f.name.startswith(_ALLOWED)]
    assert not outside, f"the compiled code of {function} needs {', '.join(outside)}"
    code: bytes = machine.emit_object(assembly)
    return code
