"""Files that are never half written."""

import tempfile
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write beside `path`, then move there: a reader sees the old content or the new one.

    Raises:
        OSError: if it cannot be written; an old file is left as it was.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        scratch = Path(file.name)
        try:
            file.write(content)
            file.close()
            scratch.chmod(0o644)
            scratch.replace(path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
