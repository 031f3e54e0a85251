"""Downloads COCO 2017 into the folders that the configs name (the original's data/scripts/COCO.sh and COCO_test.sh).

    python tools/download_coco.py                     # train, val and annotations: 20 GB to fetch, 39 GB of space
    python tools/download_coco.py val annotations     # enough to evaluate: 1.1 GB to fetch, 1.9 GB of space
    python tools/download_coco.py test                # test-dev, whose results COCO's server evaluates: 6.6 GB

Pictures go to FOLDER/images, annotations to FOLDER/annotations. The zips are in FOLDER/zips until they are unpacked;
those that another program has fetched can be put there. Whatever interrupts it, the same command goes on from there.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from tqdm import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from utils.download import DownloadError, download, file_hash  # noqa: E402
from utils.errors import UserError  # noqa: E402
from utils.files import atomic_path, remove_files  # noqa: E402

HOST = "http://images.cocodataset.org"


class Archive(NamedTuple):
    """A zip of COCO's server.

    path: below the host's address. size: in bytes. md5: in hexadecimal. unpacked: bytes on the disk that its files
    need, rounded up: pictures hardly shrink in a zip, and a file fills whole blocks.
    """

    path: str
    size: int
    md5: str
    unpacked: int

    @property
    def name(self) -> str:
        """The file's name."""
        return os.path.basename(self.path)


ARCHIVES = {
    "train": [Archive("zips/train2017.zip", 19336861798, "cced6f7f71b7629ddf16f17bbcfab6b2", 19_800_000_000)],
    "val": [Archive("zips/val2017.zip", 815585330, "442b8da7639aecaf257c1dceb8ba8c80", 840_000_000)],
    "test": [Archive("zips/test2017.zip", 6646970404, "77ad2c53ac5d0aea611d422c0938fb35", 6_800_000_000),
             Archive("annotations/image_info_test2017.zip", 1144034, "85da7065e5e600ebfee8af1edb634eb5", 20_000_000)],
    "annotations": [Archive("annotations/annotations_trainval2017.zip", 252907541, "f4bbac642086de4f52a3fdda2de5fa2c",
                            840_000_000)],
}
PARTS = tuple(ARCHIVES)
DEFAULT_PARTS = ("train", "val", "annotations")
# Of what is unpacked: a folder, then a name that cannot lead out of another one.
MEMBER = re.compile(r"\w+/([\w-]+\.(jpg|json))")
FOLDERS = {"jpg": "images", "json": "annotations"}


def server_address(text: str) -> str:
    """argparse type of ``--mirror``."""
    if not re.match(r"https?://\S+$", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no address, such as {HOST}")
    return text.rstrip("/")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    # Not choices=: before Python 3.12 the default would have to be one of them.
    add("parts", nargs="*", metavar="PART", default=DEFAULT_PARTS,
        help=f"of {', '.join(PARTS)} (default: {' '.join(DEFAULT_PARTS)})")
    add("--folder", default="data/coco", help="where everything goes (default: %(default)s)")
    add("--mirror", type=server_address, metavar="URL", default=HOST,
        help="another server with zips/train2017.zip and so on (default: %(default)s)")
    add("--keep_zips", action="store_true", help="do not delete a zip when it is unpacked")
    args = parser.parse_args(argv)
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; choose from {', '.join(PARTS)}")
    return args


def zip_path(folder: str, archive: Archive) -> str:
    """Where a zip lies while it is needed."""
    return os.path.join(folder, "zips", archive.name)


def _record_path(folder: str, archive: Archive) -> str:
    """The file that `unpack` writes at its end: {path below the folder: bytes} of everything that the zip held."""
    return f"{zip_path(folder, archive)}.unpacked.json"


def _size(path: str) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return os.path.getsize(path)
    except OSError:
        return -1


def is_unpacked(folder: str, archive: Archive) -> bool:
    """Whether an earlier run unpacked the whole zip, and all its files are still there."""
    try:
        with open(_record_path(folder, archive), encoding="utf-8") as file:
            record = dict(json.load(file))
    except (OSError, ValueError, TypeError):
        return False
    return all(_size(os.path.join(folder, path)) == size for path, size in record.items())


def check_zip(path: str, archive: Archive) -> None:
    """Raise UserError unless a zip that is there already is COCO's: an earlier run's or put there by hand."""
    size = os.path.getsize(path)
    if size != archive.size:
        raise UserError(f"{path} has {size} bytes instead of {archive.size}: finish its download with the program that "
                        "began it, or delete it; then run the same command again")
    found = file_hash(path, "md5", bar=True)
    if found != archive.md5:
        raise UserError(f"{path} has the md5 {found} instead of {archive.md5}: delete it and run the same command "
                        "again")


def members(zip_file: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """{path below the folder: member} of all pictures and annotation files; nothing else is unpacked."""
    found = {}
    for member in zip_file.infolist():
        name = MEMBER.fullmatch(member.filename)
        if name:
            found[os.path.join(FOLDERS[name[2]], name[1])] = member
    return found


def _lacking(folder: str, files: dict[str, zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    return {path: member for path, member in files.items() if _size(os.path.join(folder, path)) != member.file_size}


def unpack(folder: str, archive: Archive) -> None:
    """Unpack what a zip holds and the folder lacks; a file is there whole or not at all.

    Raises:
        UserError: the zip is damaged.
    """
    path = zip_path(folder, archive)
    try:
        with zipfile.ZipFile(path) as zip_file:
            files = members(zip_file)
            lacking = _lacking(folder, files)
            for name in FOLDERS.values():
                os.makedirs(os.path.join(folder, name), exist_ok=True)
            with tqdm(desc=f"unpacking {archive.name}", total=len(files), initial=len(files) - len(lacking),
                      unit="file", dynamic_ncols=True) as progress:
                for name, member in lacking.items():
                    _unpack_file(zip_file, member, os.path.join(folder, name))
                    progress.update()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run the same command again") from error
    os.sync()  # once, not for every picture: the record, after which the zip goes, must not reach the disk first
    with atomic_path(_record_path(folder, archive)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump({name: member.file_size for name, member in files.items()}, file)


def _unpack_file(zip_file: zipfile.ZipFile, member: zipfile.ZipInfo, target: str) -> None:
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        with zip_file.open(member) as source, open(temporary, "wb") as file:
            shutil.copyfileobj(source, file)
        os.replace(temporary, target)
    finally:
        remove_files([temporary])


def space_needed(folder: str, archives: list[Archive], keep_zips: bool) -> int:
    """The most bytes that fetching and unpacking one zip after the other takes beside what is there already."""
    most = used = 0
    for archive in archives:
        path = zip_path(folder, archive)
        used += archive.size - max(_size(path), _size(f"{path}.part"), 0)
        if os.path.exists(path):
            with zipfile.ZipFile(path) as zip_file:
                used += sum(member.file_size for member in _lacking(folder, members(zip_file)).values())
        else:
            used += archive.unpacked
        most = max(most, used)
        used -= 0 if keep_zips else archive.size
    return most


def check_space(folder: str, archives: list[Archive], keep_zips: bool) -> None:
    """Raise UserError when the folder's disk has too little space."""
    needed, free = space_needed(folder, archives, keep_zips), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{needed / 1e9:.1f} GB are needed in {os.path.abspath(folder)}, and {free / 1e9:.1f} GB are "
                        "free: free space, or choose a folder on another disk with --folder")


def fetch(folder: str, archives: list[Archive], mirror: str) -> None:
    """Fetch the first of the zips unless it is there.

    Raises:
        UserError: it cannot be fetched; the message says how to go on, for the others too.
    """
    first, *later = archives
    try:
        download(f"{mirror}/{first.path}", zip_path(folder, first), md5=first.md5)
    except DownloadError as error:
        others = [f"{mirror}/{archive.path}" for archive in later if not os.path.exists(zip_path(folder, archive))]
        raise UserError(f"{error}{' (then ' + ', '.join(others) + ' beside it)' if others else ''}, or name another "
                        "server with --mirror; the same command goes on from there") from error


def run(args: argparse.Namespace) -> None:
    """Fetch, verify and unpack what is not there yet, one zip after the other."""
    wanted = [archive for part in PARTS if part in args.parts for archive in ARCHIVES[part]]
    archives = [archive for archive in wanted if not is_unpacked(args.folder, archive)]
    os.makedirs(args.folder, exist_ok=True)
    for archive in archives:
        path = zip_path(args.folder, archive)
        if os.path.exists(path):
            check_zip(path, archive)
    check_space(args.folder, archives, args.keep_zips)
    for i, archive in enumerate(archives):
        fetch(args.folder, archives[i:], args.mirror)
        unpack(args.folder, archive)
        if not args.keep_zips:
            path = zip_path(args.folder, archive)
            remove_files((path, f"{path}.part", f"{path}.part.json"))  # a part stays when the zip is put there by hand
    print(f"{', '.join(archive.name for archive in wanted)}: everything is in {args.folder}"
          f"{'' if archives else ' already'}")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a user's mistake ends in one line and exit code 1."""
    args = parse_args(argv)
    try:
        run(args)
    except (UserError, OSError) as error:
        sys.exit(f"download_coco.py: error: {error}")
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
