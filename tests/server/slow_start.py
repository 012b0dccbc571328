"""The application of served.py, whose import waits while there is a file `hold` in the data folder."""

import os
import time
from pathlib import Path

_folder = Path(os.environ["JOBMANAGER_DATA_DIR"])
if (_folder / "hold").exists():
    (_folder / "waits").touch()
while (_folder / "hold").exists():
    time.sleep(0.01)

from served import app  # noqa: E402

__all__ = ["app"]
