"""The compiled build of floor 1, off by default: `PAGEALLOC_COMPILE=1 pip install .` (it needs a C compiler).

mypyc compiles the very files that the interpreter runs. Three stay as they are: `sync_real`, whose primitives are the
interpreter's own; `errors`, since a compiled exception has no room for the attributes that a raise adds; and `ram`,
which is known by weak references. The pure install needs none of this, and gets the same wheel as ever.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SWITCH = "PAGEALLOC_COMPILE"
PACKAGE = "pagealloc"
INTERPRETED = {"__init__.py", "errors.py", "ram.py", "sync_real.py"}
# mypy is mypyc; setuptools runs the compiler.
# A newer mypy has parts in Rust with no wheel for free-threaded builds.
MYPY = "mypy>=1.19,<1.20" if sysconfig.get_config_var("Py_GIL_DISABLED") else "mypy>=1.19"
NEEDS = [MYPY, "setuptools>=77"]


class CompiledBuild(BuildHookInterface):  # type: ignore[type-arg, misc, unused-ignore]
    """Adds the extension modules beside the sources that they were made from."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return NEEDS if os.environ.get(SWITCH) else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, if that was asked for, and have the wheel hold what came of it."""
        if not os.environ.get(SWITCH) or version == "editable":
            return
        _expect_a_compiler()
        folder = Path(tempfile.mkdtemp(prefix="pagealloc-mypyc-"))
        for built in _compile(Path(self.root), folder):
            build_data["force_include"][str(built)] = (
                f"{PACKAGE}/{built.name}" if built.parent.name == PACKAGE else built.name
            )
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _expect_a_compiler() -> None:
    compiler = os.environ.get("CC", "cc").split()[0]
    if shutil.which(compiler) is None:
        raise SystemExit(
            f"{SWITCH} is set, and there is no C compiler {compiler!r}: expected one on the PATH (Debian: gcc), "
            f"or an install without {SWITCH}, which needs none"
        )


def _compile(root: Path, folder: Path) -> list[Path]:
    """Compile the package into `folder`; returns the extension modules."""
    from mypyc.build import mypycify  # noqa: PLC0415 - only a compiled build has it
    from setuptools import Distribution  # noqa: PLC0415
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    config = folder / "mypy.ini"
    config.write_text("[mypy]\nstrict = True\nignore_missing_imports = True\nwarn_unused_ignores = False\n")
    before = Path.cwd()
    os.chdir(root)  # mypyc names modules by their paths from here
    try:
        sources = sorted(
            str(path.relative_to(root))
            for path in (root / PACKAGE).glob("*.py")
            if path.name not in INTERPRETED
        )
        extensions = mypycify(
            [f"--config-file={config}", *sources], target_dir=str(folder / "c"), opt_level="3"
        )
        command = build_ext(Distribution({"name": PACKAGE, "ext_modules": extensions}))
        command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "tmp")
        command.ensure_finalized()
        command.run()
    finally:
        os.chdir(before)
    return sorted((folder / "lib").rglob("*.so"))
