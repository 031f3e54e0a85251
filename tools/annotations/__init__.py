"""Readers of annotation formats, one module each, and the COCO files that tools/x2coco.py makes of them."""
