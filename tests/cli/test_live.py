"""What a terminal shows while something is computed."""

import os
import pty
import re
import select
import subprocess
import sys

CODE = """
import sys, time
from potstill.cli.options import quiet, tell
tell("distil: round 0: choosing 25 of 3500 frames")
for k in range(0, 101, 20):
    tell(f"train: step {k}/100, loss {1 - k / 200:.3f}")
    time.sleep(0.15)
tell("label: 5/20 labels, 2 failed, 3 running")
time.sleep(0.3)
tell("validate: [bold]hcp[/bold] done")
time.sleep(0.2)
print("the result")
quiet()
"""


def on_a_terminal(code, **environment):
    """What a terminal of 160 columns gets, standard output included."""
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", **environment}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=follower, stderr=follower, env=env)
    os.close(follower)
    said = b""
    while select.select([leader], [], [], 60)[0]:
        try:
            piece = os.read(leader, 65536)
        except OSError:
            break
        if not piece:
            break
        said += piece
    assert process.wait(60) == 0
    os.close(leader)
    return said.decode()


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_counts_move_a_bar_and_other_lines_scroll():
    said = plain(on_a_terminal(CODE))
    assert re.search(r"\d\d:\d\d:\d\d distil: round 0: choosing 25 of 3500 frames", said)
    assert "train: step" in said
    assert re.search(r"60/100 .*/s .* left", said)
    assert "loss 0.700" in said
    assert not re.search(r"\d\d:\d\d:\d\d train: step 20/100", said), "a count does not scroll"
    assert "validate: [bold]hcp[/bold] done" in said, "brackets of a line are no markup"
    assert "the result" in said
    after = said[said.index("validate: [bold]") :]
    assert "2 failed" in after, "the last fault stays to be seen"


def test_a_terminal_that_can_do_nothing_gets_plain_lines():
    said = on_a_terminal(CODE, TERM="dumb")
    assert "\x1b" not in said
    assert "train: step 20/100" in said


def test_elsewhere_every_line_is_printed_as_it_is():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60)
    assert "train: step 20/100, loss 0.900" in done.stderr
    assert done.stdout == "the result\n"
    assert "\x1b" not in done.stderr
