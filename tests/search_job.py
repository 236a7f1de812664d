"""A job for tests of searches: ``search_job.py x=NUMBER run_dir='FOLDER'``; its PSNR is 30 − (x − 3)².

With x = 9 it takes ten seconds, and with x = 0 it fails unless the sweep's folder says that all is mended.
"""

import sys
import time
from pathlib import Path

said = dict(argument.split("=", 1) for argument in sys.argv[1:])
folder = Path(said["run_dir"].strip("'"))
with (folder / "starts").open("a") as file:
    file.write("x\n")
x = float(said["x"])
if x == 0 and not (folder.parent / "mended").exists():
    sys.exit("bad")
psnr = 30 - (x - 3) ** 2
with (folder / "metrics.csv").open("w") as file:
    file.write("step,val/psnr\n")
    for step in range(40 if x == 9 else 4):
        file.write(f"{step},{psnr + step / 100}\n")
        file.flush()
        time.sleep(0.25 if x == 9 else 0.01)
(folder / "summary.json").write_text(f'{{"train_seconds": {x}}}')
