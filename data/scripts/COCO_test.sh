#!/bin/sh
# COCO 2017's test pictures and test-dev's list of them, into data/coco; options as COCO.sh.
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec "${PYTHON:-python}" tools/download_coco.py test "$@"
