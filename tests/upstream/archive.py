"""Downloads transformers' own test suites: the source archive of the installed version, from the package index.

Notes:
- The wheel has no tests. The source archive has the shared suites (`tests/test_*_common.py`, `tests/test_*_mixin.py`). None of
  it is committed here.
- pip downloads it, so that its indexes, proxies and certificates apply. It checks the archive's SHA-256 before anything in it
  runs. A version whose checksum is not listed below is refused.
- The archive is unpacked once, into `lyricgpt/upstream` in the user's cache, under a lock and with one rename. So test processes
  that start together do not collide, and a killed process never leaves a folder that looks complete.
- The suites import four modules and read one file that the archive leaves out. Stand-ins replace them, so transformers' tests
  of generation and export, which are in those modules, do not run here.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers
from filelock import FileLock

# SHA-256 of the source archive of each version that the project has been tested with.
CHECKSUMS = {
    "5.23.0": "19d647a4d5d903a7c644ca5cde2d86efc3dde7d8c687ae7988806ff2205efa71",
    "5.24.0": "906cb8c3cb2123575e263962586a4d21a979ce97feeb95fe6aaf66fe6ae88bf3",
}

# The folder that holds the suites. transformers looks for a name that ends in "tests".
PACKAGE = "transformers_tests"

STAND_INS = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/__init__.py": "",
    # `ConfigTester` sets each of these and reads it back.
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["Model"],
    "id2label": {0: "label"},
    "label2id": {"label": 0},
    "problem_type": "regression",
}
""",
    "fixtures/sample_text.txt": "This is a sample.\n",
    "distributed_testing_utils.py": """from upstream.ranks import (
    _get_distributed_backend,
    _get_distributed_device_type,
    _get_rank_device,
    _set_rank_device,
    _start_rank_processes,
    run_distributed,
)
""",
}


class SuitesUnavailableError(RuntimeError):
    """transformers' source archive is not available, so its suites cannot run."""


def cache_folder() -> Path:
    """A folder in the user's cache, so that later test sessions need no download."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lyricgpt" / "upstream"


def download(folder: Path) -> Path:
    """Downloads the source archive of the installed transformers into `folder` and verifies its checksum.

    Raises:
        SuitesUnavailableError: no checksum is known for that version, or pip cannot download or verify it.
    """
    version = transformers.__version__
    if version not in CHECKSUMS:
        raise SuitesUnavailableError(
            f"CHECKSUMS in tests/upstream/archive.py has no checksum for transformers {version}, only for "
            f"{', '.join(CHECKSUMS)}. Install one of these, or add the SHA-256 of its source archive from the package index."
        )
    requirements = folder / "requirements.txt"
    requirements.write_text(f"transformers=={version} --hash=sha256:{CHECKSUMS[version]}\n")
    options = ["--no-deps", "--no-binary", "transformers", "--require-hashes", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, "--requirement", requirements]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode:
        raise SuitesUnavailableError(
            f"pip could not download the source archive of transformers {version}, which has the test suites. Run the tests "
            f"again with a connection to a package index that has it. pip's error:\n{result.stderr.strip()}"
        )
    return next(folder.glob("transformers-*.tar.gz"))


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the archive's `tests` folder as `folder` and adds the stand-ins."""
    with tarfile.open(archive) as file:
        members = [member for member in file.getmembers() if member.name.split("/")[1:2] == ["tests"]]
        file.extractall(folder.parent, members=members, filter="data")
    (folder.parent / members[0].name.split("/")[0] / "tests").rename(folder)
    for name, text in STAND_INS.items():
        path = folder / name
        if path.exists():
            raise SuitesUnavailableError(
                f"{archive.name} has a tests/{name} of its own: remove the stand-in from STAND_INS"
            )
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def fetch_suites() -> Path:
    """The folder to import `transformers_tests` from, downloaded on first use (seconds, 11 MB).

    Raises:
        SuitesUnavailableError: the archive cannot be downloaded or verified.
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    stand_ins = hashlib.sha256(repr(STAND_INS).encode()).hexdigest()[:8]
    folder = cache / f"transformers-{transformers.__version__}-{stand_ins}"
    with FileLock(cache / "fetching.lock"):
        if not folder.exists():
            temporary = Path(tempfile.mkdtemp(dir=cache, prefix=".fetching-"))
            try:
                unpack(download(temporary), temporary / "whole" / PACKAGE)
                (temporary / "whole").rename(folder)
            finally:
                shutil.rmtree(temporary)
    return folder
