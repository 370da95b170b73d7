"""What watches over an agent ends with it."""

import subprocess
import sys

PROGRAM = """
import os
from gateway.agent.watchdog import Watchdog
watchdog = Watchdog("NAME=value", "/nowhere")
place = f"/proc/{watchdog.pid}"
there = os.path.exists(place)
watchdog.dismiss()
print(there, os.path.exists(place))
"""


def test_when_it_is_dismissed_it_is_gone_so_that_nothing_outlives_the_agent() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"
