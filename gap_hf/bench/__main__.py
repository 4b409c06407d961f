"""One process of ``gap-hf bench --repeats``: options come as JSON, results go to the standard output as JSON."""

import json
import sys

from .errors import BenchError
from .runner import options_from, run

if __name__ == "__main__":
    try:
        results = run(options_from(sys.argv[1]))
    except BenchError as error:
        raise SystemExit(str(error)) from None
    print(json.dumps([result.to_json() for result in results]))
