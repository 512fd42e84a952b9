"""Where this checkout lies, and the environment variables of a process that imports its package."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENV = os.environ | {"PYTHONPATH": str(ROOT)}
