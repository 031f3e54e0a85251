"""Convert a weights file of YOLACT to another format.

    python tools/convert_weights.py weights/yolact_base_54_800000.pdparams yolact_base.safetensors --half
    python tools/convert_weights.py weights/yolact_base_54_800000.pdparams yolact_base.npz

A .safetensors file carries the config with the weights; a .npz has the parameter names of the original repository.
"""
import argparse
import os
import sys

if __package__ in (None, ""):  # run as a script: python tools/convert_weights.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from utils.runtime import UserError  # noqa: E402
from utils.weights import read_weights, save_npz, save_safetensors, saved_config  # noqa: E402


def convert(source, target, half=False):
    """Read `source` (.pdparams, .npz, .safetensors) and write `target` (.safetensors, .npz).

    Returns: number of tensors.
    Raises:
        UserError: the source cannot be read, or the target's suffix or --half does not fit.
    """
    suffix = os.path.splitext(target)[1]
    if suffix not in (".safetensors", ".npz"):
        raise UserError(f"cannot write {target}: name it .safetensors or .npz")
    if half and suffix != ".safetensors":
        raise UserError("--half is for .safetensors only; leave it out")
    weights = read_weights(source)
    if suffix == ".npz":
        save_npz(target, weights)
    else:
        config = saved_config(source)
        if config is None:
            raise UserError(f"{source} has no config beside it (the .json of its checkpoint), which a .safetensors "
                            "file carries; put it there, or write a .npz")
        save_safetensors(target, weights, config, half)
    return len(weights)


def main(argv=None):
    """Entry point; a user's mistake ends in one line and exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="weights to read: .pdparams, .npz or .safetensors, told from the content")
    parser.add_argument("target", help="file to write: .safetensors or .npz")
    parser.add_argument("--half", action="store_true", help="store convolution weights as float16: half the size")
    args = parser.parse_args(argv)
    try:
        count = convert(args.source, args.target, args.half)
    except (UserError, OSError) as error:
        sys.exit(f"convert_weights.py: error: {error}")
    print(f"{count} tensors written to {args.target}, {os.path.getsize(args.target) / 2 ** 20:.1f} MiB")


if __name__ == "__main__":
    main()
