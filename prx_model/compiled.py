"""The blocks of PRX through torch.compile, one by one: a short compilation, shared by all blocks and all models."""

from __future__ import annotations

import sysconfig
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prx_model.model import PRX

OPTIONS: dict[str, Any] = {
    # GELU's tanh takes a tenth of a step otherwise. What this loses, 1e-7, is lost in the rounding of 1 + tanh anyway.
    "cpp.use_decompose_tanh": True,
    # Believe the processor about its instruction sets. torch would compile a library for each of them and load it in a
    # process of its own: 7 s the first time, 1 s in every process after that.
    "cpp.vec_isa_ok": True,
}

# Compilations of one function before dynamo refuses. Shapes are static, so each new batch size takes one, with and
# without gradient; torch's own 8 would fill up in a process that runs one experiment after another.
RECOMPILE_LIMIT = 128

NEVER, WHERE_POSSIBLE, ALWAYS = "never", "where_possible", "always"
CHOICES = (NEVER, WHERE_POSSIBLE, ALWAYS)


def is_compiled(choice: str, device: torch.device) -> bool:
    """What a choice comes to on this machine. ValueError, in one line, on 'always' without a compiler for `device`."""
    if choice == ALWAYS:
        check_toolchain(device)
    return choice == ALWAYS or (choice == WHERE_POSSIBLE and _missing(device) is None)


def compile_blocks(model: PRX) -> None:
    """Compile every block of `model` at its first use, for the shapes that it then sees; new shapes compile anew.

    All blocks of all models of equal shapes share one compilation per process, which the next process finds on the
    disk. Weights, their names and what is saved stay as they are; values change by rounding. A block that cannot be
    compiled is an error, never a silent return to eager.
    Raises ValueError where this machine has nothing to compile with.
    """
    # We know: on a CPU it calls ATen for them, which is the quickest there (see attention.turned).
    warnings.filterwarnings("ignore", message="Torchinductor does not support code generation for complex operators")
    compile_each(model.transformer.blocks)


def compile_each(modules: Iterable[nn.Module]) -> None:
    """The same for any modules that are alike."""
    for module in modules:
        check_toolchain(next(module.parameters()).device)
        _allow_recompiles()
        module.compile(fullgraph=True, dynamic=False, options=OPTIONS)


def check_toolchain(device: torch.device) -> None:
    """Raise ValueError, in one line, where torch.compile has no compiler for `device`."""
    missing = _missing(device)
    if missing is not None:
        raise ValueError(f"compile: got {ALWAYS}, but {missing}; install it or take {WHERE_POSSIBLE} or {NEVER}")


def _missing(device: torch.device) -> str | None:
    return _missing_for_cuda() if device.type == "cuda" else _missing_for_cpu()


def _missing_for_cpu() -> str | None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "this machine has no C++ compiler (g++, or clang++ on a Mac)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return f"Python's C headers are not in {sysconfig.get_path('include')} (the package python3-dev)"
    return None


def _missing_for_cuda() -> str | None:
    from torch.utils._triton import has_triton

    return None if has_triton() else "this machine has no Triton for its GPU (the package triton)"


def _allow_recompiles() -> None:
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, RECOMPILE_LIMIT)
