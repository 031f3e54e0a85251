"""The parts of YOLACT that are not the backbone: necks, heads, losses, detection and mask assembly."""
