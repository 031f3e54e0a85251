#!/bin/sh
# COCO 2017 to train and evaluate with, into data/coco; `sh data/scripts/COCO.sh --help` lists the options.
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec "${PYTHON:-python}" tools/download_coco.py "$@"
