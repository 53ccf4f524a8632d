"""parsl's message hub, begun as a program by the driver: it ends with the driver, and then the nodes' workers do."""

import os
import runpy

from potstill.engine.local import end_with

if __name__ == "__main__":
    end_with(os.getppid())
    runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__")
