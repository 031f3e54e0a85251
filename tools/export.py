"""Export a network for deployment: for Paddle Inference, as ONNX, or both, beside a JSON that describes it.

    python tools/export.py --trained_model=weights/yolact_base_54_800000.pdparams
    python tools/export.py --trained_model=yolact_resnet50 --format=both --out=exported/resnet50 --image=street.jpg
    python tools/export.py --trained_model=weights/yolact_fish_80_20000.pdparams --format=onnx -o nms_thresh=0.4

The folder (default: exported/ and the config's name) gets

    yolact.json          class names and category ids; how a picture is prepared; inputs and outputs with their shapes
                         and meaning; thresholds of the detection; hashes and versions
    network.*            the network: pictures [B, 3, S, S] of any number B -> boxes, classes, mask coefficients,
                         priors, prototypes, in the order of yolact.json. Detection and mask assembly stay outside
    maskiou_net.*        of a YOLACT++ network: masks [N, 1, h, w] -> their estimated IoU for every class

as .json (.pdmodel with Paddle 2.6) and .pdiparams for Paddle Inference, and as .onnx. Every model is run and compared
with the network itself on a picture; with a difference beyond 1e-4 of an output's largest value nothing is written.
ONNX needs the packages of requirements-export.txt.
"""
import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import sys

if __package__ in (None, ""):  # run as a script: python tools/export.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Before paddle is imported: its remarks on building graphs are for its developers.
os.environ.setdefault("GLOG_minloglevel", "2")
from utils.runtime import UserError, set_threads, set_up_messages  # noqa: E402

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import paddle  # noqa: E402
from paddle import nn  # noqa: E402

from backbone import DeformableConv2D  # noqa: E402
from data.config import MEANS, STD, ConfigError, cfg  # noqa: E402
from data.images import DatasetError, read_image  # noqa: E402
from eval import configure  # noqa: E402
from layers.box_utils import VARIANCES  # noqa: E402
from layers.output_utils import assemble_masks  # noqa: E402
from tools.export_onnx import DEFORMABLE_OPSET, OPSET, check_deformable, check_packages, write_onnx  # noqa: E402
from utils.augmentations import Normalize, base_transform  # noqa: E402
from utils.checkpoint import check_writable  # noqa: E402
from utils.exported import (  # noqa: E402
    DESCRIPTION,
    ENGINES,
    FORMAT,
    FORMAT_VERSION,
    MASKIOU_NET,
    NETWORK,
    PADDLE_2,
    first_line,
    hash_of,
    inference_config,
    load_exported,
    read_description,
)
from utils.files import atomic_folder  # noqa: E402
from utils.pictures import SUFFIXES  # noqa: E402
from utils.predictor import load_network  # noqa: E402

FORMATS = {"paddle": ("paddle",), "onnx": ("onnx",), "both": ENGINES}
ENGINE_NAMES = {"paddle": "Paddle Inference", "onnx": "onnxruntime"}
TOLERANCE = 1e-4  # of an output's largest absolute value
NUM_MASKS = 5  # for the comparison of the mask IoU net
CLASS_SCORES = {
    "ohem": "softmax over the classes",
    "focal": "softmax over the classes",
    "sigmoid": "sigmoid of each class",
    "objectness": "sigmoid of the first, times the softmax over the others",
}
MEANINGS = {
    "loc": "box offsets against the priors: centre = prior centre + offset * variance 0 * prior size, "
           "size = prior size * exp(offset * variance 1)",
    "conf": "class logits, background first",
    "mask": "mask coefficients",
    "priors": "centre x, centre y, width and height, relative 0..1",
    "proto": "prototypes: a mask is sigmoid(prototypes . coefficients), cropped to its box if mask_proto_crop",
    "score": "logits of the mask's IoU: their sigmoid multiplies the class scores",
    "iou": "estimated IoU of each mask with an object of each class, without background; it multiplies the score",
}


def parse_args(argv=None):
    """The command line as a namespace; exits with a message on a wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--trained_model", required=True,
        help="weights of any format (.pdparams, .pth, .safetensors, .npz); a released network's name (yolact_base), "
             "which is downloaded into --save_folder; 'latest': the newest checkpoint of --config there")
    add("--config", help="a config of data/config.py (default: the one saved with the weights, else the one "
                         "that their file is named after)")
    add("--dataset", help="a data set of data/config.py that replaces the config's")
    add("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="change config keys: -o nms_thresh=0.4")
    add("--save_folder", default="weights/", help="of released networks and of 'latest' (default: %(default)s)")
    add("--detect", action="store_true", help="boxes only, without the mask branch")
    add("--out", help="folder to write (default: exported/ and the config's name); an earlier export is replaced")
    add("--format", choices=tuple(FORMATS), default="paddle", help="what to write (default: %(default)s)")
    add("--image", help="picture for the comparison (default: the first of the validation set, else a drawn one)")
    add("--no_bar", action="store_true", help="no progress bar of a download")
    return parser.parse_args(argv)


# --- what has to be right before anything is built --------------------------------------------------------------


def check_out(folder):
    """Refuse a folder that cannot be made, or that holds what no export wrote.

    Raises:
        UserError: names what is in the way.
    """
    check_writable(os.path.dirname(folder) or ".", "--out")
    if os.path.isdir(folder):
        try:
            known = {DESCRIPTION, *read_description(folder)["files"]}
        except UserError:
            known = set()
        strange = sorted(set(os.listdir(folder)) - known)
        if strange:
            raise UserError(f"{folder} holds {strange[0]}, which is of no export; choose another --out")
    elif os.path.lexists(folder):
        raise UserError(f"{folder} is a file; choose another --out")


def check_network(net, config, engines):
    """Refuse networks that cannot be exported as asked.

    Raises:
        UserError: names the reason and what can be done.
    """
    if config.preserve_aspect_ratio:
        raise UserError("with preserve_aspect_ratio the input has any shape and the priors depend on it, which a fixed "
                        "graph cannot follow; -o preserve_aspect_ratio=False exports the network for squares")
    if "onnx" in engines and is_deformable(net):
        check_deformable()


def is_deformable(net):
    """Whether a network has deformable convolutions."""
    return any(isinstance(layer, DeformableConv2D) for layer in net.sublayers())


# --- the models -------------------------------------------------------------------------------------------------


class NetworkOutputs(nn.Layer):
    """The network with its outputs as a tuple in a fixed order, as static graphs want it.

    Args:
        net: Yolact that has run once, so that it keeps the priors. out: its outputs then, for names and priors.
    """

    def __init__(self, net, out):
        super().__init__()
        self.net = net
        self.names = list(out)
        self.register_buffer("priors", out["priors"])  # the very tensor that the network keeps, to be saved as it is

    def forward(self, images):
        """images: as `Yolact.forward` -> its outputs, in the order of `names`."""
        out = self.net(images)
        return tuple(out[name] for name in self.names)


def write_paddle(layer, folder, name, input_name, shape):
    """Write a layer for Paddle Inference. shape: of the input, its first size is left open.

    Returns: {"model", "params"}, the files' names.
    """
    spec = paddle.static.InputSpec([None, *shape[1:]], "float32", input_name)
    try:
        paddle.jit.save(layer, os.path.join(folder, name), input_spec=[spec])
    except OSError:
        raise
    except Exception as error:  # Paddle's errors have no class in common
        raise UserError(f"PaddlePaddle {paddle.__version__} cannot make a static graph of the {name} "
                        f"({first_line(error)})") from error
    suffix = ".pdmodel" if PADDLE_2 else ".json"
    if PADDLE_2:
        remove_sources(os.path.join(folder, name + suffix))
    return {"model": name + suffix, "params": name + ".pdiparams"}


def remove_sources(path):
    """Remove from a .pdmodel where in which source file each operator was made: names of folders of this machine."""
    with open(path, "rb") as file:
        program = paddle.base.core.ProgramDesc(file.read())
    for block in map(program.block, range(program.num_blocks())):
        for operator in map(block.op, range(block.op_size())):
            if operator.has_attr("op_callstack"):
                operator.remove_attr("op_callstack")
    with open(path, "wb") as file:
        file.write(program.serialize_to_string())


# --- the description --------------------------------------------------------------------------------------------


def describe_model(input_name, input_shape, out, free):
    """Input and outputs of a model, without its files.

    Args:
        out: its outputs, dict of arrays. free: what the first size stands for, "batch" or "masks".
    """
    def part(name, shape):
        return {"name": name, "shape": list(shape) if name == "priors" else [free, *shape[1:]]}

    meanings = dict(MEANINGS)
    if "mask" in out and "proto" not in out:
        meanings["mask"] = "with mask_type 'direct' masks of mask_size x mask_size, which fill their boxes; else unused"
    return {"input": part(input_name, input_shape),
            "outputs": [{**part(name, array.shape), "meaning": meanings[name]} for name, array in out.items()]}


def describe(config, weights, models, folder):
    """Everything that yolact.json holds, but for the comparison.

    Args:
        config: Config. weights: path. models: dict name -> description with files. folder: where the files lie.
    """
    normalize = Normalize(config.backbone.transform, MEANS, STD)
    part = inference_config(config)
    detection = {key: part[key] for key in ("nms_top_k", "nms_conf_thresh", "nms_thresh", "max_num_detections",
                                            "mask_type", "mask_proto_crop", "rescore_mask", "rescore_bbox")}
    versions = {"paddle": paddle.__version__}
    if any("onnx" in model for model in models.values()):
        versions["paddle2onnx"] = importlib.metadata.version("paddle2onnx")
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "class_names": part["dataset"]["class_names"],
        "label_map": part["dataset"]["label_map"],
        "picture": {
            "size": [config.max_size, config.max_size],
            "resize": "to that height and width whatever the aspect ratio, bilinear, without anti-aliasing, in float32",
            "channel_order": config.backbone.transform.channel_order,
            "means": [round(float(normalize.means[channel]), 4) for channel in normalize.source],
            "std": [round(float(normalize.divisors[channel]), 4) for channel in normalize.source],
            "values": "(0..255 - means) / std, in the channel order",
        },
        "models": models,
        "detection": {"class_scores": CLASS_SCORES[config.conf_mode], "variances": list(VARIANCES), **detection,
                      "mask_threshold": 0.5},
        "config": part,
        "weights": {"file": os.path.basename(weights), "sha256": hash_of(weights)},
        "files": {name: {"bytes": os.path.getsize(os.path.join(folder, name)),
                         "sha256": hash_of(os.path.join(folder, name))} for name in sorted(os.listdir(folder))
                  if name != DESCRIPTION},
        "versions": versions,
    }


def write_description(folder, description):
    """Write yolact.json, to be read by people too: a list of numbers or names is one line."""
    text = json.dumps(description, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\n *", "", found[0].replace(",\n", ", \n")), text)
    with open(os.path.join(folder, DESCRIPTION), "w", encoding="utf-8") as file:
        file.write(text + "\n")


# --- the comparison ---------------------------------------------------------------------------------------------


def comparison_picture(path, folder):
    """The picture to compare on.

    Args:
        path: of --image, or None. folder: of the validation set's pictures, which may not be there.

    Returns: (what it is called, uint8 [H, W, 3] BGR).
    Raises:
        DatasetError: `path` is no picture.
    """
    if path is not None:
        return os.path.basename(path), read_image(path, apply_orientation=True)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if name.lower().endswith(SUFFIXES):
            with contextlib.suppress(DatasetError):
                return name, read_image(os.path.join(folder, name))
    return "a drawn picture", drawn_picture()


def drawn_picture(height=480, width=640):
    """Shapes on a cloudy ground, the same every time: uint8 [height, width, 3] BGR."""
    rng = np.random.RandomState(0)
    picture = cv2.resize(rng.randint(0, 256, (6, 8, 3)).astype(np.float32), (width, height))
    for _ in range(12):
        centre, axes = rng.randint(0, width, 2).tolist(), rng.randint(15, 120, 2).tolist()
        cv2.ellipse(picture, centre, axes, int(rng.randint(180)), 0, 360, rng.randint(0, 256, 3).tolist(), -1)
    return np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


def run_network(net, config, image_bgr):
    """Run the network itself.

    Returns:
        dict model -> (input ndarray, dict of output tensors): the network's input is the picture and its mirror image,
        the mask IoU net's the masks of the priors that are most of all an object.
    """
    image = base_transform(image_bgr, config.max_size, config.backbone.transform, MEANS, STD)
    images = np.stack([image, image[:, :, ::-1]])
    with paddle.no_grad():
        out = net(paddle.to_tensor(images))
        cases = {NETWORK: (images, out)}
        if net.maskiou_net is not None:
            best = (out["conf"][0, :, 1:].max(axis=1) - out["conf"][0, :, 0]).topk(NUM_MASKS)[1]
            masks = assemble_masks(out["proto"][0], out["mask"][0].index_select(best), None, crop_masks=False)
            masks = masks.transpose([2, 0, 1]).unsqueeze(1)
            cases[MASKIOU_NET] = (masks.numpy(), {"iou": net.maskiou_net(masks)})
    for name, (_, outputs) in cases.items():
        for output, tensor in outputs.items():
            if not np.isfinite(tensor.numpy()).all():
                raise UserError(f"the {name} itself gives values that are not finite ({output}); its weights are "
                                "damaged, or not of this config")
    return cases


def compare(folder, engine, cases):
    """Run all models of an export in an engine, and print how far they are from the network itself.

    Args:
        cases: of `run_network`. Each is run as a whole, and the first of its batch alone.

    Returns:
        dict model -> output -> largest absolute difference.
    Raises:
        UserError: a model does not run, or one of its outputs is too far off.
    """
    exported = load_exported(folder, engine=engine)
    found = {}
    for name, (array, expected) in cases.items():
        found[name] = dict.fromkeys(expected, 0.0)
        for count in (1, len(array)):
            try:
                outputs = getattr(exported, name)(array[:count])
            except Exception as error:  # the engines' errors have no class in common
                raise UserError(f"the {name} does not run in {ENGINE_NAMES[engine]} ({first_line(error)}); "
                                "nothing was written") from error
            for output, reference in expected.items():
                reference = reference.numpy() if output == "priors" else reference[:count].numpy()
                difference = largest_difference(outputs[output].numpy(), reference)
                allowed = TOLERANCE * np.abs(reference).max()
                if difference > allowed:
                    raise UserError(f"the {name} in {ENGINE_NAMES[engine]} differs from the network itself by "
                                    f"{difference:.2g} in {output}, where {allowed:.2g} is allowed ({TOLERANCE:g} of "
                                    "its largest value); nothing was written")
                found[name][output] = max(found[name][output], difference)
        for output, reference in expected.items():
            largest = max(float(reference.abs().max()), 1e-30)
            print(f"  {ENGINE_NAMES[engine]:16s} {name + '.' + output:16s} {found[name][output]:8.1e}, "
                  f"{found[name][output] / largest:8.1e} of its largest value", flush=True)
    return found


def largest_difference(array, reference):
    """Largest absolute difference of two arrays; infinite if their shapes differ or one has a NaN."""
    if array.shape != reference.shape:
        return float("inf")
    difference = float(np.abs(array - reference).max())
    return float("inf") if np.isnan(difference) else difference


# --- the command ------------------------------------------------------------------------------------------------


def write_models(net, cases, folder, engines):
    """Write the models of a network.

    Args:
        net: Yolact. cases: of `run_network`.

    Returns:
        dict model -> description, with the files of each engine.
    """
    opset = DEFORMABLE_OPSET if is_deformable(net) else OPSET
    layers = {NETWORK: (NetworkOutputs(net, cases[NETWORK][1]), "images", "batch"),
              MASKIOU_NET: (net.maskiou_net, "masks", "masks")}
    models = {}
    for name, (array, out) in cases.items():
        layer, input_name, free = layers[name]
        layer.eval()
        model = models[name] = describe_model(input_name, array.shape, out, free)
        print(f"making a static graph of the {name} ...", flush=True)
        model["paddle"] = write_paddle(layer, folder, name, input_name, array.shape)
        if "onnx" in engines:
            print(f"converting the {name} to ONNX, opset {opset} ...", flush=True)
            model["onnx"] = write_onnx(folder, model["paddle"], model, opset)
            model["onnx_opset"] = opset
        if "paddle" not in engines:
            for file in os.listdir(folder):
                if not file.endswith(".onnx"):
                    os.remove(os.path.join(folder, file))
            del model["paddle"]
    return models


def export(net, config, weights, folder, engines, picture):
    """Write a network into a folder, whole or not at all, and print how far the models are from it.

    Args:
        net: Yolact in evaluation mode.
        config: its Config. weights: path of its weights. folder: to write. engines: of utils.exported.ENGINES.
        picture: (name, uint8 [H, W, 3] BGR) to compare on.

    Raises:
        UserError: the network cannot be exported, or a model is too far from it.
    """
    check_network(net, config, engines)
    print(f"running {config.name} on {picture[0]} ...", flush=True)
    cases = run_network(net, config, picture[1])
    with atomic_folder(folder) as temporary:
        description = describe(config, weights, write_models(net, cases, temporary, engines), temporary)
        write_description(temporary, description)
        print("largest differences from the network itself:", flush=True)
        found = {engine: compare(temporary, engine, cases) for engine in engines}
        description["compared"] = {"picture": picture[0], "tolerance": TOLERANCE, "largest_difference": found}
        write_description(temporary, description)
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        print(f"written: {path}, {os.path.getsize(path) / 2 ** 10:,.0f} KiB")


def main(argv=None):
    """Entry point; a user's mistake ends in one line and exit code 1."""
    set_up_messages()
    args = parse_args(argv)
    try:
        engines = FORMATS[args.format]
        if "onnx" in engines:
            check_packages()
        weights = configure(args)
        folder = os.path.normpath(args.out or os.path.join("exported", cfg.name))
        check_out(folder)
        picture = comparison_picture(args.image, cfg.dataset.valid_images)
        paddle.set_device("cpu")  # the models run everywhere
        set_threads()
        print(f"{cfg.name} from {weights}", flush=True)
        export(load_network(weights, cfg), cfg, weights, folder, engines, picture)
    except (UserError, ConfigError, DatasetError, OSError) as error:
        sys.exit(f"export.py: error: {error}")


if __name__ == "__main__":
    main()
