"""How the ledger, the watcher's question and the ranking hold up as a study grows; writes docs/evidence/scale.md.

    python scripts/scale.py [--checkpoints 100 1000 10000] [--fresh]

Nothing is evaluated: every job gets the same recorded result (200 items, four conditions, three seeds, drawn once from
a fixed seed), under the job's own name. MLflow is filled without its API, which would take hours at the largest size:
the rows that the product writes (LoggedModels, their tags, params and metrics, the runs' points) go straight into
SQLite. Artifacts lie in the study's home, as they do on the machine that computed them. Past rankings are given as
known at all steps but the last hundred; those are ranked anew once, which is what a home without them pays a step.
"""

import argparse
import json
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from softprompt.benchmarks import Benchmark
from softprompt.checkpoints import Checkpoint
from softprompt.metrics import Outcome, summarise
from softprompt.protocol import Protocol
from softprompt.result import ITEMS_FILE, RESULT_FILE, CurvePoint, Job, Result
from softprompt.study import Study
