"""Programs that are built from Go modules, into ``.venv/tools``.

``tools/conformance/golang`` names each with its version and everything it is made of, with the
checksums of all: the same program comes out everywhere.
"""

from __future__ import annotations

import hashlib
import shutil

from devtool.shell import ROOT, VerbError, output, say

__all__ = ["H2SPEC", "MODULE", "is_h2spec_current", "missing_h2spec", "require_h2spec"]

MODULE = ROOT / "tools" / "conformance" / "golang"
H2SPEC = ROOT / ".venv" / "tools" / "bin" / "h2spec"
_PACKAGE = "github.com/summerwind/h2spec/cmd/h2spec"
_STAMP = H2SPEC.with_name(".h2spec-stamp")


def is_h2spec_current() -> bool:
    """Tell whether h2spec is there, in the version that is wanted.

    Returns:
        Whether it can be run.
    """
    try:
        return H2SPEC.exists() and _STAMP.read_text() == _wanted()
    except FileNotFoundError:
        return False


def missing_h2spec() -> str:
    """Say why h2spec cannot be had here.

    Returns:
        The reason; empty when it is there or can be built.
    """
    if is_h2spec_current() or shutil.which("go") is not None:
        return ""
    return "h2spec is built with Go 1.21 or newer, which is not on the path"


def require_h2spec() -> None:
    """Build h2spec unless it is there.

    Raises:
        VerbError: There is no Go, or the build fails.
    """
    if is_h2spec_current():
        return
    reason = missing_h2spec()
    if reason:
        raise VerbError(reason)
    say(f"building h2spec into {H2SPEC.parent.relative_to(ROOT)} ...")
    H2SPEC.parent.mkdir(parents=True, exist_ok=True)
    variables = {"GOBIN": str(H2SPEC.parent), "GOFLAGS": "-mod=readonly"}
    code, text = output(
        "go", "install", _PACKAGE, cwd=MODULE, environment=variables, downloads=True
    )
    if code != 0:
        raise VerbError(f"h2spec does not build:\n{text.rstrip()}")
    _STAMP.write_text(_wanted())


def _wanted() -> str:
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((MODULE / name).read_bytes())
    return digest.hexdigest()
