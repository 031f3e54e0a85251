"""What every test shares: the import path, the thread count, and the data that tests draw or are handed."""

import os
import sys
import threading
from pathlib import Path

import file_server
import fuzz
import pytest

REPO = Path(__file__).resolve().parent.parent

# Before any test imports Paddle: left unset, Paddle settles on one thread at its import.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
os.environ.setdefault("OMP_NUM_THREADS", str(min(4, CORES)))

if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))

import utils.runtime  # noqa: E402, F401 (before any test imports Paddle: it sets what Paddle's MKL reads)
from data.config import cfg  # noqa: E402

DEFAULT_CFG = cfg.copy()
fuzz.load_profile()


@pytest.fixture(autouse=True)
def default_cfg():
    """The commands fill the global cfg; every test leaves it as it was at the start."""
    yield
    cfg.update_in_place(DEFAULT_CFG)


def _folder_from_environment(variable: str, what: str) -> Path:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} is not set; it names the folder with {what}")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"{variable}={folder} is not a folder; unset it to skip this test")
    return path


@pytest.fixture(scope="session")
def coco_tiny() -> Path:
    """Folder of real COCO pictures: train2017/, val2017/, annotations/instances_{train,val}2017.json."""
    return _folder_from_environment("YOLACT_COCO_TINY", "a few COCO pictures and their annotations")


@pytest.fixture(scope="session")
def goldens_dir() -> Path:
    """Folder of the original's golden figures that derive from COCO and are not in the repository."""
    return _folder_from_environment("YOLACT_GOLDENS", "golden figures that derive from COCO")


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory) -> Path:
    """A small demo data set as `make demo` draws it: train/, val/, annotations/instances_{train,val}.json.

    24 training and 12 validation pictures, always the same. Shared by the session: copy before editing.
    """
    from tools.make_demo_data import make_demo_data

    folder = tmp_path_factory.mktemp("demo") / "data"
    make_demo_data(str(folder), train=24, val=12)
    return folder


@pytest.fixture(scope="session")
def trained(demo_data, tmp_path_factory) -> Path:
    """Weights of a few iterations on demo data: enough for detections of every class, good for nothing else."""
    from cli_runs import run, stem_of, train_arguments

    folder = tmp_path_factory.mktemp("trained")
    run("train", train_arguments(demo_data, folder, "--lr=0.01", overrides=["max_iter=20", "lr_warmup_until=2"]))
    return folder / "weights" / f"{stem_of(demo_data, 20)}.pdparams"


@pytest.fixture(scope="session")
def straight(demo_data, tmp_path_factory) -> tuple[Path, str]:
    """Twelve iterations with augmentation, workers, validation and a checkpoint on the way, as (folder, console)."""
    from cli_runs import AUGMENTED, SAMPLED, quietly, train_arguments

    folder = tmp_path_factory.mktemp("straight")
    return folder, quietly("train", train_arguments(
        demo_data, folder, "--num_workers=2", "--validation_epoch=2", "--save_interval=4", "--validation_size=5",
        overrides=["max_iter=12", SAMPLED, *AUGMENTED]))


@pytest.fixture
def server(monkeypatch):
    """A file_server.Server that answers on the loopback interface; downloads from it hardly pause between attempts."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("utils.download.PAUSES", (0.01, 0.02, 0.03))
    server = file_server.Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()
